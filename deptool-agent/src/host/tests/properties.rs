//! Properties that hold for any two trees.

use proptest::{collection::vec, option, prelude::*};

use crate::host::tests::{drift::drift, *};

type Tree = Vec<(String, String)>;

/// The files of an app: some of a few files, each with one of two contents, and a matching manifest.
fn app(name: &'static str) -> impl Strategy<Value = Tree> {
    let content = || option::of(prop_oneof![Just("1"), Just("2")]);
    (content(), content(), content(), vec(any::<bool>(), 4)).prop_map(move |(conf, deep, service, with)| {
        let mut files = vec![("always".to_owned(), "x".to_owned())];
        let (mut links, mut modes, mut units) = (String::new(), String::new(), String::new());
        if let Some(content) = conf {
            files.push(("conf".into(), content.into()));
            links = if with[0] { format!(r#""/etc/{name}/conf": "conf""#) } else { String::new() };
            modes = if with[1] { r#""conf": {"mode": "0640"}"#.into() } else { String::new() };
        }
        if let Some(content) = deep {
            files.push(("deep/er/file".into(), content.into()));
            files.push((format!("tmpfiles/{name}.conf"), format!("d /run/{content}")));
        }
        if let Some(content) = service {
            let text = format!("[Service]\nExecStart=/bin/{content}\n");
            files.push((format!("systemd/{name}.service"), text));
            units = if with[2] { format!(r#""{name}.service""#) } else { String::new() };
        }
        if with[3] {
            files.push(("systemd/host.service.d/".to_owned() + name + ".conf", "[Service]\nNice=1\n".into()));
        }
        let manifest =
            format!(r#"{{"symlinks": {{{links}}}, "files": {{{modes}}}, "systemd": {{"units_enabled": [{units}]}}}}"#);
        files.push(("manifest.json".into(), manifest));
        files.into_iter().map(|(path, content)| (format!("{name}/{path}"), content)).collect()
    })
}

/// Up to three apps.
fn tree() -> impl Strategy<Value = Tree> {
    (option::of(app("a")), option::of(app("b")), option::of(app("c")))
        .prop_map(|(a, b, c)| [a, b, c].into_iter().flatten().flatten().collect())
}

impl World {
    fn with_host_unit() -> World {
        let mut world = World::new();
        world.fake.running("host.service");
        world
    }

    fn try_tree(&mut self, tree: &Tree) -> Outcome {
        let files: Vec<(&str, &str)> = tree.iter().map(|(path, content)| (path.as_str(), content.as_str())).collect();
        self.deploy(&files).0
    }

    #[track_caller]
    fn has(&mut self, tree: &Tree) {
        let outcome = self.try_tree(tree);
        assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
    }

    /// Like [`World::visible`], but without the numbers of generations.
    fn effect(&self) -> BTreeMap<String, String> {
        let mut seen = self.visible();
        seen.retain(|path, _| !["current", "previous"].contains(&path.trim_start_matches("var/lib/deptool/")));
        let Ok(current) = fs::read_dir(self.path("/var/lib/deptool/current")) else { return seen };
        for app in current {
            let app = app.unwrap();
            if app.file_name() != ".commit" {
                let root = fs::canonicalize(app.path()).unwrap();
                let mut files = BTreeMap::new();
                walk(&root, &root, &mut files);
                let name = app.file_name().into_string().unwrap();
                seen.extend(files.into_iter().map(|(path, file)| (format!("{name}: {path}"), file)));
            }
        }
        seen
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_result_depends_only_on_the_last_tree(first in tree(), second in tree()) {
        let mut detour = World::with_host_unit();
        detour.has(&first);
        detour.has(&second);
        let mut straight = World::with_host_unit();
        straight.has(&second);
        prop_assert_eq!(detour.effect(), straight.effect());
        prop_assert_eq!(drift(&mut detour), Vec::<String>::new());
    }

    #[test]
    fn a_plan_that_was_carried_out_is_empty(tree in tree()) {
        let mut world = World::with_host_unit();
        world.has(&tree);
        let loaded = world.deployed.as_ref().unwrap().1.clone();
        let plan = HostPlan::between(&loaded, &loaded).unwrap();
        prop_assert!(plan.is_empty(), "{plan:?}");
        let (before, calls) = (world.effect(), world.fake.changes().len());
        world.has(&tree);
        prop_assert_eq!(world.effect(), before);
        prop_assert_eq!(&world.fake.changes()[calls..], ["leave-session"]);
    }

    #[test]
    fn a_failed_deployment_leaves_no_trace(first in tree(), second in tree(), at in 0usize..40) {
        let mut world = World::with_host_unit();
        world.has(&first);
        let before = world.visible();
        world.fake.fails_at = Some(world.fake.calls.len() + 1 + at);
        match world.try_tree(&second) {
            Outcome::Done { .. } => {}
            Outcome::RolledBack(failure) => {
                prop_assert_eq!(failure.rollback_errors, Vec::<String>::new());
                prop_assert_eq!(world.visible(), before);
            }
            _ => prop_assert_eq!(world.visible(), before),
        }
        world.fake.fails_at = None;
        world.has(&second);
        let mut straight = World::with_host_unit();
        straight.has(&second);
        // The fake service manager does not know that a unit's file is gone, so the ledger says that the unit is disabled.
        let without_ledger = |world: &World| {
            let mut seen = world.effect();
            seen.remove("var/lib/deptool/state/claims");
            seen
        };
        prop_assert_eq!(without_ledger(&world), without_ledger(&straight));
    }

    #[test]
    fn removing_everything_restores_the_host(tree in tree()) {
        let mut world = World::with_host_unit();
        world.has(&Tree::new());
        let before = world.effect();
        world.has(&tree);
        world.has(&Tree::new());
        prop_assert_eq!(world.effect(), before);
    }

    #[test]
    fn a_plan_depends_on_nothing_but_the_trees(first in tree(), second in tree()) {
        let load = |tree: &Tree| {
            let objects = Objects::default();
            let files: Vec<(&str, &str)> = tree.iter().map(|(path, content)| (path.as_str(), content.as_str())).collect();
            objects.host(&files).unwrap()
        };
        let plan = |a: &Tree, b: &Tree| HostPlan::between(&load(a), &load(b)).unwrap();
        prop_assert_eq!(plan(&first, &second).digest(), plan(&first, &second).digest());
        let reversed: Tree = second.iter().rev().cloned().collect();
        prop_assert_eq!(plan(&first, &second).digest(), plan(&first, &reversed).digest());
        prop_assert_eq!(plan(&first, &second).is_empty(), first == second);
    }
}
