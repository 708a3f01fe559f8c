use std::{cell::Cell, fmt::Debug, fs};

use deptool_agent::{
    host::{
        secrets::{age, identity::Identity},
        state::{attempts, journal::Journal, layout::Home, ledger::Claims},
    },
    shared::{
        frame::{FrameReader, MAX_FRAME, encode},
        manifest::Manifest,
        name::{AppName, ClusterName, HostName, UnitName, check_component},
        path::{ExternalPath, TreePath, check_symlink},
        plan::HostPlan,
        store::pack::{self, Limits},
        text::{printable, printable_lines},
        tree::HostTree,
        unit_file::Facts,
        wire::{Request, Response},
    },
};
use git_remote_deptool::{
    agent::{
        install::opening::{Scan, scan},
        sanitize::safe,
    },
    config::url::Address,
    model::options::Options,
    protocol::command,
};
use gix_hash::oid;
use gix_object::{Data, Find, Kind};
use serde::{Serialize, de::DeserializeOwned};

/// Assert that `text` has nothing that controls a terminal.
#[track_caller]
fn assert_harmless(text: &str) {
    let bad = |c: char| c.is_control() && c != '\n' && c != '\t' || ('\u{202a}'..='\u{202e}').contains(&c);
    assert!(!text.contains(bad), "{text:?}");
}

/// Decode `data` as a stream of frames, and as the body of one frame: a fuzzer rarely finds a valid length.
fn messages<T>(data: &[u8], mut each: impl FnMut(T))
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let framed = [&(data.len().min(MAX_FRAME) as u32).to_be_bytes(), &data[..data.len().min(MAX_FRAME)]].concat();
    for stream in [data, &framed] {
        let mut reader = FrameReader::new(stream);
        while let Ok(Some(message)) = reader.receive::<T>() {
            // Whatever can be decoded can be encoded again.
            let again = encode(&message).unwrap();
            let mut reader = FrameReader::new(again.as_slice());
            assert_eq!(reader.receive::<T>().unwrap().as_ref(), Some(&message));
            each(message);
        }
    }
}

pub fn requests(data: &[u8]) {
    messages(data, |_: Request| {});
}

pub fn responses(data: &[u8]) {
    messages(data, |message: Response| {
        if let Response::Note(text) | Response::Error(text) = safe(message) {
            assert_harmless(&text);
        }
    });
}

pub fn manifests(data: &[u8]) {
    match Manifest::parse(data) {
        Ok(manifest) => {
            for path in manifest.symlinks.keys() {
                assert!(ExternalPath::parse_link(path.as_str()).is_ok());
            }
        }
        Err(error) => assert_harmless(&error.to_string()),
    }
}

pub fn names(data: &[u8]) {
    let results = [
        HostName::parse(data).map(String::from),
        AppName::parse(data).map(String::from),
        UnitName::parse(data).map(String::from),
        ClusterName::parse(data).map(String::from),
    ];
    for result in results {
        match result {
            Ok(name) => {
                assert_harmless(&name);
                assert!(check_component(name.as_bytes()).is_ok(), "{name}");
            }
            Err(error) => assert_harmless(&error.to_string()),
        }
    }
}

pub fn paths(data: &[u8]) {
    let (first, second) = data.split_at(data.iter().position(|byte| *byte == 0).unwrap_or(data.len()));
    match TreePath::parse(first) {
        Ok(path) => {
            assert_harmless(&path.to_string());
            assert!(path.components().all(|component| component != b".." && !component.contains(&b'/')));
            if check_symlink(&path, second.strip_prefix(b"\0").unwrap_or_default()).is_ok() {
                assert_stays_inside(&path, &second[1..]);
            }
        }
        Err(error) => assert_harmless(&error.to_string()),
    }
    let text = String::from_utf8_lossy(first);
    if let Ok(path) = ExternalPath::parse_link(&text) {
        let normal = path.normalized();
        assert!(!normal.split('/').any(|component| component == ".."));
        assert!(
            !normal.starts_with("/var/lib/deptool/") && !normal.starts_with("/proc/") && !normal.starts_with("/run/")
        );
    }
}

/// Assert that a link at `path` with this target stays inside its app.
fn assert_stays_inside(path: &TreePath, target: &[u8]) {
    let mut depth = path.components().count() as i64 - 1;
    for component in target.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => depth -= 1,
            _ => depth += 1,
        }
        assert!(depth >= 0, "{path} -> {target:?}");
    }
}

pub fn units(data: &[u8]) {
    Facts::of(&String::from_utf8_lossy(data));
}

/// An object database that finds an object for every id: the first byte of the id chooses one. So trees can contain
/// each other, and even themselves.
struct Anything<'a> {
    objects: Vec<&'a [u8]>,
    left: Cell<u32>,
}

impl Find for Anything<'_> {
    fn try_find<'a>(&self, id: &oid, buffer: &'a mut Vec<u8>) -> Result<Option<Data<'a>>, gix_error::Error> {
        let Some(left) = self.left.get().checked_sub(1) else { return Ok(None) };
        self.left.set(left);
        let object = self.objects[usize::from(id.as_bytes()[0]) % self.objects.len()];
        let kind = match object.first() {
            Some(b'c') => Kind::Commit,
            Some(b't') => Kind::Tree,
            _ => Kind::Blob,
        };
        buffer.clear();
        buffer.extend_from_slice(object.get(1..).unwrap_or_default());
        Ok(Some(Data { kind, object_hash: gix_hash::Kind::Sha1, data: buffer }))
    }
}

pub fn trees(data: &[u8]) {
    let objects = data.split(|byte| *byte == 0xff).collect();
    let objects = Anything { objects, left: Cell::new(300) };
    let id = deptool_agent::shared::id::TreeId(gix_hash::ObjectId::null(gix_hash::Kind::Sha1));
    match HostTree::load(&objects, id) {
        Ok(tree) => {
            for name in tree.ignored.iter() {
                assert_harmless(name);
            }
            // Every tree that can be loaded has a plan, or is refused with an error.
            let _ = HostPlan::between(&HostTree::default(), &tree).map(|plan| plan.digest());
            assert!(HostPlan::between(&tree, &tree).is_ok_and(|plan| plan.is_empty()) || tree_is_refused(&tree));
        }
        Err(error) => assert_harmless(&error.to_string()),
    }
}

fn tree_is_refused(tree: &HostTree) -> bool {
    HostPlan::between(&HostTree::default(), tree).is_err()
}

pub fn packs(data: &[u8]) {
    let limits = Limits { object: 1 << 16, objects: 100, pack: 1 << 20, inflated: 1 << 20 };
    let mut copy = Vec::new();
    let mut inflated = 0;
    let result = pack::read(&mut &data[..], &limits, &mut copy, &mut |entry| {
        inflated += entry.data.len() as u64;
        assert!(entry.data.len() as u64 <= limits.object && inflated <= limits.inflated);
        Ok(())
    });
    match result {
        Ok(summary) => assert_eq!(summary.bytes, copy.len() as u64),
        Err(error) => assert_harmless(&error.to_string()),
    }
    assert!(data.starts_with(&copy));
}

pub fn urls(data: &[u8]) {
    let check = |result: Result<Address, git_remote_deptool::config::url::UrlError>| match result {
        Ok(address) => {
            if let Some(name) = address.directory_name() {
                assert_harmless(name.as_str());
            }
        }
        Err(error) => assert_harmless(&error.to_string()),
    };
    check(Address::parse(data));
    Address::parse_url(data).map(check);
}

pub fn dialogue(data: &[u8]) {
    let mut options = Options::default();
    for line in data.split(|byte| *byte == b'\n') {
        match command::parse(line) {
            Ok(command::Command::Option { name, value }) => {
                options.set(name.as_ref(), value.as_ref());
            }
            Ok(_) => {}
            Err(error) => assert_harmless(&error.to_string()),
        }
    }
    if let Some(error) = options.refusal() {
        assert_harmless(&error.to_string());
    }
}

pub fn openings(data: &[u8]) {
    match scan(data) {
        Scan::Found(_, length) => assert!(length <= data.len()),
        Scan::Noise(text) | Scan::Malformed(text) => assert_harmless(&text),
        Scan::More => {}
    }
}

/// The records that an agent reads back. A full disk or a power cut can leave anything in them.
pub fn ledgers(data: &[u8]) {
    thread_local!(static ROOT: tempfile::TempDir = tempfile::tempdir().unwrap());
    ROOT.with(|root| {
        let home = Home::new(root.path());
        fs::create_dir_all(home.state()).unwrap();
        for path in [home.journal(), home.attempts(), home.claims()] {
            fs::write(path, data).unwrap();
        }
        let shown = [
            Journal::find(&home).err().map(|error| error.to_string()),
            attempts::latest(&home, 10).err().map(|error| error.to_string()),
            Claims::load(&home).err().map(|error| error.to_string()),
        ];
        shown.iter().flatten().for_each(|text| assert_harmless(text));
    });
}

pub fn texts(data: &[u8]) {
    let line = printable(data);
    assert_harmless(&line);
    assert!(!line.contains(['\n', '\t']));
    assert_eq!(printable(line.as_bytes()), line, "it is safe already");
    assert_harmless(&printable_lines(data));
}

/// The identity of the published test vectors, which are the corpus.
const IDENTITY: &str = "AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0";

pub fn age_files(data: &[u8]) {
    match age::has_header(data) {
        Ok(()) => {
            let identity = Identity::parse(IDENTITY).unwrap();
            if let Ok(plain) = age::open(&identity, data) {
                assert!(plain.len() < data.len());
            }
        }
        Err(why) => assert_harmless(&why.to_string()),
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Some(identity) = Identity::parse(text)
    {
        assert!(identity.recipient().starts_with("age1"));
    }
}
