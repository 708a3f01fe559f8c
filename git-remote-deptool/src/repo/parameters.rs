//! Parses the settings from `git -c key=value`, which Git passes in `GIT_CONFIG_PARAMETERS` and gix does not read.

use gix::bstr::{BString, ByteSlice};

/// The settings in `text` as `key=value`, or `key` for one without a value.
///
/// Git writes them as `'key'='value'` (since 2.30) or `'key=value'`, separated by spaces. Parsing stops at malformed
/// text, which Git would have refused.
pub fn parse(text: &[u8]) -> Vec<BString> {
    let mut settings = Vec::new();
    let mut rest = text.trim_start();
    while let Some((key, after)) = unquote(rest) {
        let (setting, after) = match after.strip_prefix(b"=") {
            None => (Some(key), after),
            Some(value) => match unquote(value) {
                Some((value, after)) => (join(key, &value), after),
                None => (Some(key), value),
            },
        };
        settings.extend(setting);
        rest = after.trim_start();
    }
    settings
}

/// gix splits at the first `=`, so a key that contains one is skipped. No relevant key does.
fn join(mut key: BString, value: &[u8]) -> Option<BString> {
    if key.contains(&b'=') {
        return None;
    }
    key.push(b'=');
    key.extend_from_slice(value);
    Some(key)
}

/// Undo the quoting of `quote.c`: `'…'`, where `'\''` and `'\!'` stand for `'` and `!`. Returns the remaining text,
/// too.
fn unquote(text: &[u8]) -> Option<(BString, &[u8])> {
    let mut out = BString::default();
    let mut rest = text.strip_prefix(b"'")?;
    loop {
        let (part, after) = rest.split_once_str("'")?;
        out.extend_from_slice(part);
        match after {
            [b'\\', escaped @ (b'\'' | b'!'), b'\'', more @ ..] => {
                out.push(*escaped);
                rest = more;
            }
            _ => return Some((out, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_of_gits_notations_are_read() {
        let text = br"'deptool.cluster'='prod' 'core.bare=false' 'a.b'= 'remote.it'\''s.url'='x=y\!'\!''";
        assert_eq!(parse(text), ["deptool.cluster=prod", "core.bare=false", "a.b", "remote.it's.url=x=y\\!!"]);
    }

    #[test]
    fn a_malformed_rest_is_left_out() {
        assert_eq!(parse(b"'a.b'='c' 'd"), ["a.b=c"]);
        assert!(parse(b"").is_empty());
        assert!(parse(b"a.b=c").is_empty());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(text in any::<Vec<u8>>(), quoted in "('[a-z\\\\'!=. ]{0,9}'?=?){0,5}") {
            let _ = (parse(&text), parse(quoted.as_bytes()));
        }
    }
}
