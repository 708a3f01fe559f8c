//! MessagePack, the encoding of messages and of the agent's journal. Structs become arrays, so field names take no
//! space.

use rmp_serde::Deserializer;
pub use rmp_serde::{decode::Error as DecodeError, encode::Error as EncodeError};
use serde::{Serialize, de::DeserializeOwned};

/// Encode `value`.
pub fn to_vec<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, EncodeError> {
    rmp_serde::to_vec(value)
}

/// Encode `value` and append it to `bytes`.
pub fn write<T: Serialize + ?Sized>(bytes: &mut Vec<u8>, value: &T) -> Result<(), EncodeError> {
    rmp_serde::encode::write(bytes, value)
}

/// Decode the value that all of `bytes` encode. Left-over bytes are an error.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let mut rest = bytes;
    let value = T::deserialize(&mut Deserializer::new(&mut rest))?;
    match rest.is_empty() {
        true => Ok(value),
        false => Err(DecodeError::Syntax("there are bytes after its end".into())),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::{collection, prelude::*};

    use serde::Deserialize;

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
        for bytes in [&b"\xdd\xff\xff\xff\xff"[..], b"\xdd\xff\xff\xff\xff\xc0", b"\xdf\xff\xff\xff\xff"] {
            assert!(from_slice::<Vec<Kind>>(bytes).is_err());
            assert!(from_slice::<BTreeMap<String, Kind>>(bytes).is_err());
        }
        assert!(from_slice::<String>(b"\xdb\xff\xff\xff\xffx").is_err());
        assert!(from_slice::<Wrapped>(b"\xc6\xff\xff\xff\xffx").is_err());
    }
}
