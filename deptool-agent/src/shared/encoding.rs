//! Postcard, the encoding of messages and of the agent's journal (<https://postcard.jamesmunns.com>). Both ends are of the same
//! build, so neither the names nor the types of fields are sent.

use postcard::Error;
use serde::{Deserialize, Serialize};

/// Encode `value`.
pub fn to_vec<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, Error> {
    postcard::to_allocvec(value)
}

/// Encode `value` and append it to `bytes`.
pub fn append<T: Serialize + ?Sized>(bytes: Vec<u8>, value: &T) -> Result<Vec<u8>, Error> {
    postcard::to_extend(value, bytes)
}

/// Decode the value that all of `bytes` encode. Left-over bytes are an error.
pub fn from_slice<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Error> {
    match next(bytes)? {
        (value, []) => Ok(value),
        _ => Err(Error::DeserializeBadEncoding),
    }
}

/// Decode the value that `bytes` begin with. Returns the rest, too.
pub fn next<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<(T, &'a [u8]), Error> {
    postcard::take_from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::{collection, prelude::*};

    use super::*;
    use crate::shared::path::TreePath;

    /// Has every kind of field that messages have.
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct All {
        flag: bool,
        numbers: (u8, u32, u64, i64),
        text: Option<String>,
        bytes: crate::shared::wire::Bytes,
        digest: [u8; 3],
        variants: Vec<Kind>,
        by_name: BTreeMap<String, Box<Kind>>,
        path: Option<TreePath>,
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    enum Kind {
        Unit,
        New(Wrapped),
        Tuple(i64, String),
        Struct { a: Option<u32>, b: Vec<u16> },
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Wrapped(Vec<String>);

    fn kind() -> impl Strategy<Value = Kind> {
        prop_oneof![
            Just(Kind::Unit),
            collection::vec(".*", 0..20).prop_map(|texts| Kind::New(Wrapped(texts))),
            any::<(i64, String)>().prop_map(|(number, text)| Kind::Tuple(number, text)),
            (any::<Option<u32>>(), collection::vec(any::<u16>(), 0..40)).prop_map(|(a, b)| Kind::Struct { a, b }),
        ]
    }

    fn path() -> impl Strategy<Value = TreePath> {
        collection::vec(0x80..0xffu8, 1..9).prop_filter_map("no path", |bytes| TreePath::parse(&bytes).ok())
    }

    prop_compose! {
        fn all()(
            flag: bool,
            numbers: (u8, u32, u64, i64),
            text: Option<String>,
            bytes in collection::vec(any::<u8>(), 0..700),
            digest: [u8; 3],
            variants in collection::vec(kind(), 0..20),
            by_name in collection::btree_map(".*", kind().prop_map(Box::new), 0..20),
            path in proptest::option::of(path()),
        ) -> All {
            All { flag, numbers, text, bytes: crate::shared::wire::Bytes(bytes), digest, variants, by_name, path }
        }
    }

    proptest! {
        #[test]
        fn a_value_is_read_back_and_truncated_or_longer_bytes_are_refused(value in all(), cut: prop::sample::Index) {
            let bytes = to_vec(&value).unwrap();
            prop_assert_eq!(&from_slice::<All>(&bytes).unwrap(), &value);
            prop_assert!(from_slice::<All>(&bytes[..cut.index(bytes.len())]).is_err());
            prop_assert!(from_slice::<All>(&[bytes.as_slice(), &[0xc0]].concat()).is_err());
        }

        #[test]
        fn bytes_that_were_changed_are_an_error_or_another_value(value in all(), at: prop::sample::Index, to: u8) {
            let mut bytes = to_vec(&value).unwrap();
            let at = at.index(bytes.len());
            bytes[at] = to;
            if let Ok(read) = from_slice::<All>(&bytes) {
                prop_assert_eq!(from_slice::<All>(&to_vec(&read).unwrap()).unwrap(), read);
            }
        }
    }

    #[test]
    fn a_false_length_is_refused_before_memory_is_allocated() {
        for length in [&b"\xff\xff\xff\xff\x0f"[..], b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"] {
            let bytes = [length, b"\x00"].concat();
            assert!(from_slice::<Vec<Kind>>(&bytes).is_err());
            assert!(from_slice::<BTreeMap<String, Kind>>(&bytes).is_err());
            assert!(from_slice::<String>(&bytes).is_err());
            assert!(from_slice::<Wrapped>(&bytes).is_err());
            assert!(from_slice::<crate::shared::wire::Bytes>(&bytes).is_err());
        }
    }
}
