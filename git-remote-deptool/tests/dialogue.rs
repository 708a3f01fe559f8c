//! Real Gits, all that are on PATH, driving the helper's dialogue: exit status, and what a person sees.
//!
//! The helper that they find is this very program: see `helper.rs`. Its hosts are a script's, see `Script`.

#[path = "dialogue/helper.rs"]
mod helper;
#[path = "dialogue/world.rs"]
mod world;

use world::{World, each_git};

#[test]
fn a_deployment_is_shown_as_a_moved_ref() {
    each_git(|world: World| {
        let first = world.push("", &["web1", "prod~2:refs/heads/prod"]);
        assert_eq!(first.status, 0, "{first:?}");
        first.shows("* [new branch]      prod~2 -> prod");
        let second = world.push("", &["web1", "prod"]);
        assert_eq!(second.status, 0);
        second.shows("   <c0>..<c2>  prod -> prod");
        assert_eq!(world.id("web1/prod"), world.id("prod"));
    });
}

#[test]
fn an_up_to_date_push_asks_for_nothing() {
    each_git(|world| {
        world.deployed("prod");
        for args in [&["web1", "prod"][..], &["-f", "web1", "prod"], &["web1", "HEAD:prod"]] {
            let again = world.push("", args);
            assert_eq!(again.status, 0);
            again.shows("Everything up-to-date");
            assert_eq!(world.asked(), ["offers", "finish"]);
        }
    });
}

#[test]
fn a_host_in_doubt_is_asked_even_if_it_is_up_to_date() {
    each_git(|world| {
        world.deployed("prod");
        world.git(&["update-ref", "refs/deptool/unsettled/web1/prod", "prod"]).succeeds();
        let push = world.push("", &["web1", "prod"]);
        assert_eq!(push.status, 0);
        assert_eq!(world.asked(), ["offers", "push refs/heads/prod:refs/heads/prod", "finish"]);
    });
}

#[test]
fn a_check_asks_a_host_that_is_up_to_date() {
    each_git(|world| {
        world.deployed("prod");
        // Git has decided before it sends options. Where its command line can't be read that is too late.
        if cfg!(target_os = "linux") {
            assert_eq!(world.scripted("", &["push", "-o", "check", "web1", "prod"]).status, 0);
            assert_eq!(world.asked()[1], "push refs/heads/prod:refs/heads/prod check");
        }
        let check = world.scripted("", &["-c", "push.pushOption=check", "push", "web1", "prod"]);
        assert_eq!(check.status, 0);
        assert_eq!(world.asked()[1], "push refs/heads/prod:refs/heads/prod check");
    });
}

#[test]
fn a_lease_on_a_host_in_doubt_is_stale_to_git() {
    each_git(|world| {
        world.deployed("prod");
        world.git(&["update-ref", "refs/deptool/unsettled/web1/prod", "prod"]).succeeds();
        let push = world.push("", &["--force-with-lease", "web1", "prod~1:prod"]);
        assert_eq!(push.status, 1);
        push.shows("! [rejected]        prod~1 -> prod (stale info)");
    });
}

#[test]
fn someone_elses_deployment_is_stale_info() {
    each_git(|world| {
        world.deployed("prod~1");
        let push = world.push("refs/heads/prod stale", &["web1", "prod"]);
        assert_eq!(push.status, 1);
        push.shows("! [rejected]        prod -> prod (stale info)");
        push.shows("error: failed to push some refs to 'deptool::web1'");
        assert_eq!(world.id("web1/prod"), world.id("prod~1"));
    });
}

#[test]
fn going_back_needs_force() {
    each_git(|world| {
        world.deployed("prod");
        let plain = world.push("", &["web1", "prod~2:refs/heads/prod"]);
        assert_eq!(plain.status, 1);
        plain.shows("! [rejected]        prod~2 -> prod (non-fast-forward)");
        assert_eq!(world.asked(), ["offers", "finish"]);
        let forced = world.push("", &["-f", "web1", "prod~2:prod"]);
        assert_eq!(forced.status, 0);
        forced.shows(" + <c2>...<c0> prod~2 -> prod (forced update)");
        assert_eq!(world.id("web1/prod"), world.id("prod~2"));
    });
}

#[test]
fn a_non_fast_forward_that_only_the_helper_can_see_reads_the_same() {
    each_git(|world| {
        let push = world.push("refs/heads/prod nonff", &["web1", "prod"]);
        assert_eq!(push.status, 1);
        push.shows("! [rejected]        prod -> prod (non-fast-forward)");
    });
}

#[test]
fn a_reason_is_shown_as_it_is() {
    each_git(|world| {
        for reason in ["rolled back: nginx.service failed", "locked by carol since 12 s", "zürich: \"no\""] {
            let push = world.push(&format!("refs/heads/prod reject {reason}"), &["web1", "prod"]);
            assert_eq!(push.status, 1);
            push.shows(&format!("! [remote rejected] prod -> prod ({reason})"));
            push.shows_not("hint:");
        }
    });
}

#[test]
fn no_reason_can_read_as_success() {
    each_git(|world| {
        for reason in ["up to date", "no match", "\"no match\""] {
            let push = world.push(&format!("refs/heads/prod reject {reason}"), &["web1", "prod"]);
            assert_eq!(push.status, 1);
            push.shows(&format!("! [remote rejected] prod -> prod (failed: {reason})"));
        }
        assert_eq!(world.git(&["for-each-ref", "refs/remotes"]).stdout, "");
    });
}

#[test]
fn a_ref_that_was_forgotten_is_a_failure() {
    each_git(|world| {
        let push = world.push("refs/heads/prod forget", &["web1", "prod"]);
        assert_eq!(push.status, 1);
        push.shows("! [remote rejected] prod -> prod (not attempted)");
    });
}

#[test]
fn a_dry_run_moves_nothing() {
    each_git(|world| {
        world.deployed("prod~1");
        let push = world.push("", &["--dry-run", "web1", "prod"]);
        assert_eq!(push.status, 0);
        push.shows("   <c1>..<c2>  prod -> prod");
        assert_eq!(world.asked(), ["offers", "push refs/heads/prod:refs/heads/prod dry-run", "finish"]);
        assert_eq!(world.id("web1/prod"), world.id("prod~1"));
    });
}

#[test]
fn atomic_reaches_the_helper_and_a_git_rejection_stops_it() {
    each_git(|world| {
        world.deployed("prod");
        world.git(&["branch", "other", "prod~1"]).succeeds();
        let push = world.push("", &["--atomic", "web1", "other"]);
        assert_eq!(push.status, 0, "{push:?}");
        assert_eq!(world.asked(), ["offers", "push refs/heads/other:refs/heads/other atomic", "finish"]);
        let push = world.push("", &["--atomic", "web1", "other", "prod~1:prod"]);
        assert_eq!(push.status, 1);
        assert_eq!(world.asked(), ["offers", "finish"]);
    });
}

#[test]
fn a_lease_is_handed_over_and_one_that_does_not_hold_stops_git() {
    each_git(|world| {
        world.deployed("prod");
        let id = world.id("prod");
        let held = format!("--force-with-lease=prod:{id}");
        let push = world.push("", &[&held, "web1", "prod~1:prod"]);
        assert_eq!(push.status, 0);
        push.shows(" + <c2>...<c1> prod~1 -> prod (forced update)");
        assert_eq!(world.asked()[1], format!("push prod~1:refs/heads/prod lease=refs/heads/prod:{id}"));
        let push = world.push("", &[&held, "web1", "prod~2:prod"]);
        assert_eq!(push.status, 1);
        push.shows("! [rejected]        prod~2 -> prod (stale info)");
        assert_eq!(world.asked(), ["offers", "finish"]);
    });
}

#[test]
fn a_lease_on_nothing_is_absent() {
    each_git(|world| {
        let push = world.push("", &["--force-with-lease=prod:", "web1", "prod"]);
        assert_eq!(push.status, 0, "{push:?}");
        assert_eq!(world.asked()[1], "push refs/heads/prod:refs/heads/prod lease=refs/heads/prod:absent");
    });
}

#[test]
fn a_removal_empties_the_tracking_ref_and_is_never_hidden() {
    each_git(|world| {
        world.deployed("prod");
        let hidden = world.push("refs/heads/prod unaffected", &["web1", ":prod"]);
        assert_eq!(hidden.status, 1);
        hidden.shows("! [remote rejected] prod (not attempted)");
        let push = world.push("", &["web1", ":prod"]);
        assert_eq!(push.status, 0);
        push.shows(" - [deleted]         prod");
        assert_eq!(world.git(&["for-each-ref", "refs/remotes"]).stdout, "");
    });
}

#[test]
fn a_first_deployment_works_from_a_detached_head() {
    each_git(|world| {
        for source in ["HEAD", "HEAD~1", "<c2>"] {
            let world = world.again();
            world.git(&["checkout", "-q", "--detach"]).succeeds();
            let refspec = format!("{}:prod", world.expand(source));
            let push = world.push("", &["deptool::web1", &refspec]);
            assert_eq!(push.status, 0, "{source}: {push:?}");
            push.shows("* [new branch]");
        }
    });
}

#[test]
fn a_clone_without_the_local_branch_can_name_it_too() {
    each_git(|world| {
        world.git(&["update-ref", "refs/remotes/origin/prod", "prod"]).succeeds();
        world.git(&["checkout", "-q", "--detach"]).succeeds();
        world.git(&["branch", "-D", "prod"]).succeeds();
        assert_eq!(world.push("", &["deptool::web1", "HEAD:prod"]).status, 0);
    });
}

#[test]
fn each_ref_of_a_batch_has_its_own_outcome() {
    each_git(|world| {
        world.git(&["branch", "qa"]).succeeds();
        let push = world.push("refs/heads/qa reject no", &["web1", "prod", "qa"]);
        assert_eq!(push.status, 1);
        push.shows(" * [new branch]      prod -> prod");
        push.shows(" ! [remote rejected] qa -> qa (no)");
        assert_eq!(world.id("web1/prod"), world.id("prod"));
        assert!(!world.git(&["rev-parse", "-q", "--verify", "web1/qa"]).succeeded());
    });
}

#[test]
fn a_failure_in_the_middle_is_told_for_the_refs_that_are_left() {
    each_git(|world| {
        world.git(&["branch", "qa"]).succeeds();
        let push = world.push("refs/heads/qa fail no route", &["web1", "prod", "qa"]);
        assert_eq!(push.status, 1);
        push.shows(" * [new branch]      prod -> prod");
        push.shows(" ! [remote rejected] qa -> qa (scripted: no route)");
    });
}

#[test]
fn an_unaffected_host_keeps_its_tracking_ref() {
    each_git(|world| {
        world.deployed("prod~1");
        let push = world.push("refs/heads/prod unaffected", &["web1", "prod"]);
        assert_eq!(push.status, 0);
        push.shows("Everything up-to-date");
        assert_eq!(world.id("web1/prod"), world.id("prod~1"));
    });
}

#[test]
fn a_bare_url_is_tracked_by_the_helper_alone() {
    each_git(|world| {
        let push = world.push("", &["deptool::root@web9", "prod"]);
        assert_eq!(push.status, 0);
        assert_eq!(world.id("refs/remotes/web9/prod"), world.id("prod"));
        world.git(&["commit", "-q", "--allow-empty", "-m", "c3"]).succeeds();
        assert_eq!(world.push("", &["deptool::web9", "prod"]).status, 0);
        let log = world.git(&["log", "-g", "--format=%gs", "web9/prod"]);
        assert_eq!(log.stdout, "deploy\ndeploy\n");
    });
}

#[test]
fn git_adds_no_second_entry_to_the_reflog_of_a_remote() {
    each_git(|world| {
        assert_eq!(world.push("", &["web1", "prod"]).status, 0);
        assert_eq!(world.git(&["log", "-g", "--format=%gs", "web1/prod"]).stdout, "deploy\n");
    });
}

#[test]
fn push_options_reach_the_helper_and_a_typo_fails_the_push() {
    each_git(|world| {
        let push = world.push("", &["-o", "check", "web1", "prod"]);
        assert_eq!(push.status, 0, "{push:?}");
        assert_eq!(world.asked()[1], "push refs/heads/prod:refs/heads/prod check");
        let push = world.push("", &["-o", "wave=ü \"2", "web1", "prod~1:refs/heads/qa"]);
        assert_eq!(push.status, 1);
        push.shows("! [remote rejected] prod~1 -> qa (unknown push option 'wave')");
        assert_eq!(world.asked(), ["offers", "finish"]);
    });
}

#[test]
fn signing_is_done_without_if_asked_and_refused_if_required() {
    each_git(|world| {
        let push = world.push("", &["--signed=if-asked", "web1", "prod"]);
        assert_eq!(push.status, 0, "{push:?}");
        let push = world.push("", &["--signed", "web1", "prod~1:refs/heads/qa"]);
        assert_eq!(push.status, 1);
        push.shows("(signed pushes are not supported)");
    });
}

#[test]
fn tags_that_follow_are_ignored_and_tags_alone_are_refused() {
    each_git(|world| {
        world.git(&["tag", "-a", "-m", "x", "v1"]).succeeds();
        let alone = world.push("", &["web1", "v1"]);
        assert_eq!(alone.status, 1);
        alone.shows("! [remote rejected] v1 -> v1 (a tag is no cluster)");
        let follow = world.push("", &["--follow-tags", "web1", "prod"]);
        assert_eq!(follow.status, 0, "{follow:?}");
        follow.shows_not("v1");
        // Up to date but for the tag, which Git sends alone.
        let config = world.git(&["-c", "push.followTags=true", "push", "web1", "prod"]);
        assert_eq!(config.status, 0, "{config:?}");
        config.shows("Everything up-to-date");
    });
}

#[test]
fn the_name_of_a_tag_as_a_source_is_its_commit() {
    each_git(|world| {
        world.git(&["tag", "-a", "-m", "x", "v1", "prod~1"]).succeeds();
        let push = world.push("", &["web1", "v1:refs/heads/prod"]);
        assert_eq!(push.status, 0, "{push:?}");
        assert_eq!(world.id("web1/prod"), world.id("prod~1"));
        let tree = world.push("", &["web1", "prod:web1:refs/heads/qa"]);
        assert_eq!(tree.status, 1);
        tree.shows("('prod:web1' is a tree; only a commit can be deployed)");
    });
}

#[test]
fn a_helper_that_dies_half_way_fails_the_push() {
    each_git(|world| {
        let push = world.push("refs/heads/prod die", &["web1", "prod"]);
        assert_ne!(push.status, 0);
        assert_eq!(world.git(&["for-each-ref", "refs/remotes"]).stdout, "");
    });
}

#[test]
fn a_batch_that_is_cut_off_is_not_carried_out() {
    each_git(|world| {
        let helper = world.helper(&["web1", "web1"], b"list for-push\npush prod:refs/heads/prod\n");
        assert_eq!(helper.status, 1);
        assert_eq!(world.asked(), ["offers"]);
    });
}

#[test]
fn a_host_that_can_not_be_reached_fails_a_fetch_and_keeps_its_ref() {
    each_git(|world| {
        world.deployed("prod");
        for command in [&["fetch", "web1"][..], &["fetch", "--prune", "web1"], &["ls-remote", "web1"]] {
            let fetch = world.scripted("unreachable", command);
            assert_eq!(fetch.status, 128, "{command:?}");
            fetch.shows("fatal: scripted: unreachable");
            assert_eq!(world.id("web1/prod"), world.id("prod"));
        }
    });
}

#[test]
fn a_fetch_moves_the_tracking_ref_to_what_the_host_has() {
    each_git(|world| {
        world.deployed("prod");
        let script = world.expand("advertise @refs/heads/prod HEAD\nadvertise <c1> refs/heads/prod");
        let listed = world.scripted(&script, &["ls-remote", "--symref", "web1"]);
        assert_eq!(listed.status, 0);
        assert_eq!(listed.stdout, world.expand("ref: refs/heads/prod\tHEAD\n<c1>\tHEAD\n<c1>\trefs/heads/prod\n"));
        assert_eq!(world.scripted(&script, &["fetch", "web1"]).status, 0);
        assert_eq!(world.id("web1/prod"), world.id("prod~1"));
    });
}

#[test]
fn a_removed_host_is_pruned() {
    each_git(|world| {
        world.deployed("prod");
        assert_eq!(world.scripted("", &["fetch", "--prune", "web1"]).status, 0);
        assert_eq!(world.git(&["for-each-ref", "refs/remotes"]).stdout, "");
    });
}

#[test]
fn quiet_and_porcelain_work_as_they_do_for_other_remotes() {
    each_git(|world| {
        let push = world.push("", &["-q", "web1", "prod"]);
        assert_eq!((push.status, push.stdout.as_str(), push.stderr.as_str()), (0, "", ""));
        let push = world.push("", &["--porcelain", "-f", "web1", "prod~1:prod"]);
        assert_eq!(push.status, 0);
        assert!(push.stdout.contains("+\tprod~1:refs/heads/prod\t<c2>...<c1> (forced update)\n"), "{push:?}");
    });
}

#[test]
fn a_linked_worktree_pushes_like_any_other() {
    each_git(|world| {
        world.git(&["worktree", "add", "-q", "--detach", "../linked"]).succeeds();
        let push = world.push("", &["-C", "../linked", "web1", "HEAD:prod"]);
        assert_eq!(push.status, 0, "{push:?}");
        assert_eq!(world.id("web1/prod"), world.id("prod"));
    });
}

#[test]
fn a_clone_and_a_fetch_from_a_bare_url_bring_the_commits_home() {
    each_git(|world| {
        let store = world.path("repo").display().to_string();
        let script = world
            .expand(&format!("objects {store} <c2>\nadvertise @refs/heads/prod HEAD\nadvertise <c2> refs/heads/prod"));
        let clone = world.scripted(&script, &["clone", "-q", "deptool::web1", "../clone"]);
        assert_eq!(clone.status, 0, "{clone:?}");
        assert_eq!(world.asked(), ["advertised", "finish"]);
        let log = world.git(&["-C", "../clone", "log", "--format=%s", "-1", "origin/prod"]);
        assert_eq!(log.stdout, "c2\n");
        // In a clone, the remote that names the host is 'origin'.
        assert_eq!(world.push("", &["-C", "../clone", "origin", "prod"]).status, 0);
        assert_eq!(world.asked(), ["offers", "finish"]);
        world.git(&["init", "-q", "../empty"]).succeeds();
        let fetch = world.scripted(&script, &["-C", "../empty", "fetch", "-q", "deptool::web1", "prod"]);
        assert_eq!(fetch.status, 0, "{fetch:?}");
        assert_eq!(world.git(&["-C", "../empty", "log", "--format=%s", "-1", "FETCH_HEAD"]).stdout, "c2\n");
    });
}

#[test]
fn the_summary_is_asked_for_after_the_table() {
    each_git(|world| {
        let push = world.scripted("refs/heads/prod summary", &["push", "web1", "prod"]);
        assert_eq!(push.status, 0);
        let (table, summary) = (push.stderr.find("-> prod"), push.stderr.find("summary"));
        assert!(table.is_some() && table < summary, "{push:?}");
    });
}
