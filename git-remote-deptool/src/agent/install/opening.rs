//! The first line from a host. It comes from the agent or from the install script.

use deptool_agent::shared::text::printable;

use super::agents::Packing;

/// The most bytes that are read for the first line, including any text that a login shell prints before it.
pub const MAX_OPENING: usize = 4096;

/// The first line, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opening {
    /// `deptool-agent <version> <build id>`: the agent is running, and frames follow.
    Agent { version: String, build: String },
    /// `deptool-absent <uname -s> <uname -m> <gzip|plain> <name in /etc/hostname, or ->`: the script waits for an upload.
    Absent { system: String, machine: String, packing: Packing, hostname: Option<String> },
    /// `deptool-error <code> <text>`: the script gave up.
    Error { code: String, text: String },
}

/// The result of looking for the first line in the bytes received so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scan {
    /// The line is incomplete.
    More,
    /// The line, and its length in bytes. The bytes after it are left for the next reader.
    Found(Opening, usize),
    /// Other text came first. It is safe to show.
    Noise(String),
    /// The line begins like one of ours but has another format, or is too long. The text is safe to show.
    Malformed(String),
}

const WORDS: [&[u8]; 3] = [b"deptool-agent ", b"deptool-absent ", b"deptool-error "];

/// Look for the first line in `bytes`, which is everything received so far.
pub fn scan(bytes: &[u8]) -> Scan {
    let bounded = &bytes[..bytes.len().min(MAX_OPENING)];
    let start = WORDS.iter().filter_map(|word| bounded.windows(word.len()).position(|part| part == *word)).min();
    match start {
        Some(0) => match bounded.iter().position(|b| *b == b'\n') {
            Some(end) => match parse(&bounded[..end]) {
                Some(opening) => Scan::Found(opening, end + 1),
                None => Scan::Malformed(excerpt(&bounded[..end])),
            },
            None if bytes.len() < MAX_OPENING => Scan::More,
            None => Scan::Malformed(excerpt(bounded)),
        },
        Some(start) => Scan::Noise(excerpt(&bounded[..start])),
        None if bytes.len() < MAX_OPENING => Scan::More,
        None => Scan::Noise(excerpt(bounded)),
    }
}

/// The beginning of the host's output, as one short line that is safe to show.
pub fn excerpt(bytes: &[u8]) -> String {
    const MOST: usize = 160;
    let text = bytes.trim_ascii();
    let shown = printable(&text[..text.len().min(MOST)]);
    if text.len() > MOST { format!("{shown}…") } else { shown }
}

fn parse(line: &[u8]) -> Option<Opening> {
    let line = std::str::from_utf8(line).ok()?;
    let (word, rest) = line.split_once(' ')?;
    match word {
        "deptool-agent" => {
            let (version, build) = rest.split_once(' ')?;
            let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
            (plain(version) && plain(build)).then(|| Opening::Agent { version: version.into(), build: build.into() })
        }
        "deptool-absent" => {
            let [system, machine, packing, hostname] = rest.splitn(4, ' ').collect::<Vec<_>>().try_into().ok()?;
            let packing = match packing {
                "gzip" => Packing::Gzip,
                "plain" => Packing::Plain,
                _ => return None,
            };
            let hostname = hostname.trim();
            let hostname = (!hostname.is_empty() && hostname != "-").then(|| printable(hostname.as_bytes()));
            Some(Opening::Absent {
                system: excerpt(system.as_bytes()),
                machine: excerpt(machine.as_bytes()),
                packing,
                hostname,
            })
        }
        "deptool-error" => {
            let (code, text) = rest.split_once(' ').unwrap_or((rest, ""));
            Some(Opening::Error { code: code.trim().into(), text: excerpt(text.as_bytes()) })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_first_line_is_understood() {
        let agent = Opening::Agent { version: "0.1.0".into(), build: "0123456789abcdef".into() };
        assert_eq!(scan(b"deptool-agent 0.1.0 0123456789abcdef\n\x00\x01rest"), Scan::Found(agent, 37));
        let absent = |hostname: Option<&str>| Opening::Absent {
            system: "Linux".into(),
            machine: "x86_64".into(),
            packing: Packing::Gzip,
            hostname: hostname.map(str::to_owned),
        };
        assert_eq!(scan(b"deptool-absent Linux x86_64 gzip web1\n"), Scan::Found(absent(Some("web1")), 38));
        assert_eq!(scan(b"deptool-absent Linux x86_64 gzip -\n"), Scan::Found(absent(None), 35));
        let error = Opening::Error { code: "noexec".into(), text: "".into() };
        assert_eq!(scan(b"deptool-error noexec\n"), Scan::Found(error, 21));
    }

    #[test]
    fn a_line_that_came_in_pieces_is_the_same_line() {
        let line = b"deptool-absent Linux aarch64 plain a.example.org\n";
        for end in 0..line.len() {
            assert_eq!(scan(&line[..end]), Scan::More, "{end}");
        }
        assert!(matches!(scan(line), Scan::Found(Opening::Absent { .. }, _)));
    }

    #[test]
    fn text_before_our_line_is_recognised_and_made_safe_to_show() {
        let noise = scan(b"Welcome\x1b[2J!\r\ndeptool-agent 0.1.0 0123456789abcdef\n");
        assert_eq!(noise, Scan::Noise("Welcome\\x1b[2J!".into()));
        assert_eq!(scan(b"no line end: deptool-agent 0.1.0 0\n"), Scan::Noise("no line end:".into()));
        assert!(matches!(scan(&[b'x'; MAX_OPENING]), Scan::Noise(_)));
    }

    #[test]
    fn a_nonsensical_line_of_ours_is_an_error_and_never_more_than_4_kib_are_taken() {
        for bad in
            ["deptool-agent x\n", "deptool-agent  \n", "deptool-absent Linux x86_64 zip -\n", "deptool-absent a b\n"]
        {
            assert!(matches!(scan(bad.as_bytes()), Scan::Malformed(_)), "{bad}");
        }
        let mut endless = b"deptool-error ".to_vec();
        endless.resize(MAX_OPENING * 4, b'x');
        assert!(matches!(scan(&endless), Scan::Malformed(text) if text.len() < 200));
        assert!(matches!(scan(b"deptool-agent \xff \xfe\n"), Scan::Malformed(_)));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_are_too_strange(bytes: Vec<u8>, word in 0..3usize) {
            for text in [bytes.clone(), [WORDS[word], &bytes, b"\n"].concat()] {
                match scan(&text) {
                    Scan::Found(_, length) => assert!(length <= text.len()),
                    Scan::Noise(shown) | Scan::Malformed(shown) => assert!(!shown.contains(char::is_control)),
                    Scan::More => {}
                }
            }
        }
    }

    #[test]
    fn what_a_host_says_of_itself_can_not_drive_a_terminal() {
        let Scan::Found(Opening::Absent { system, hostname, .. }, _) =
            scan(b"deptool-absent \x1b[1m m gzip \x07\x1b]0;x\n")
        else {
            panic!("it is well formed")
        };
        assert!(!system.contains('\x1b') && !hostname.unwrap().contains(['\x1b', '\x07']));
    }
}
