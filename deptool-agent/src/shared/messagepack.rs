//! MessagePack, as far as our own types need it: what [`to_vec`] writes and nothing else is read.
//!
//! Reading is ours and writing is `rmp-serde`'s. Its reader takes every type in every shape that the format has for it (a
//! struct as an array, as a map, as bytes, as an extension), each compiled for each type: 0.3 MB of an agent. Here a value
//! has one shape: structs are arrays, variants are named by text, a map of one has a variant's content.

use std::fmt;

use rmp::Marker;
use serde::{
    Deserialize, Serialize,
    de::{self, DeserializeSeed, Visitor},
    forward_to_deserialize_any,
};

/// Bytes that are no value of the type that was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("it ends too early")]
    End,
    #[error("{found} where {wanted} should be")]
    Unexpected { found: &'static str, wanted: &'static str },
    #[error("a text is not UTF-8")]
    Text,
    #[error("there is more than was expected")]
    More,
    #[error("{0}")]
    Invalid(String),
}

impl de::Error for DecodeError {
    fn custom<T: fmt::Display>(why: T) -> Self {
        DecodeError::Invalid(why.to_string())
    }
}

/// A value that MessagePack has no place for; none of ours are.
pub type EncodeError = rmp_serde::encode::Error;

/// `value` in bytes.
pub fn to_vec<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = Vec::new();
    write(&mut bytes, value)?;
    Ok(bytes)
}

/// Append `value` to `bytes`.
pub fn write<T: Serialize + ?Sized>(bytes: &mut Vec<u8>, value: &T) -> Result<(), EncodeError> {
    rmp_serde::encode::write(bytes, value)
}

/// The value that all of `bytes` is.
pub fn from_slice<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, DecodeError> {
    let mut decoder = Decoder { rest: bytes };
    let value = T::deserialize(&mut decoder)?;
    if decoder.rest.is_empty() { Ok(value) } else { Err(DecodeError::More) }
}

/// The first field of a struct that this build may know nothing else of.
pub fn first_field<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, DecodeError> {
    let mut decoder = Decoder { rest: bytes };
    match decoder.next()? {
        Item::Array(1..) => T::deserialize(&mut decoder),
        other => Err(other.instead_of("a struct")),
    }
}

/// Reads values from the front of `rest`. Our types don't contain themselves, so nothing nests deeper than they do.
struct Decoder<'de> {
    rest: &'de [u8],
}

/// A value, or what begins one.
enum Item<'de> {
    Nil,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Text(&'de str),
    Bytes(&'de [u8]),
    /// So many values follow.
    Array(u64),
    /// So many pairs follow.
    Map(u64),
    /// Something that none of our types has.
    Other,
}

impl Item<'_> {
    fn instead_of(&self, wanted: &'static str) -> DecodeError {
        let found = match self {
            Item::Nil => "nothing",
            Item::Bool(_) => "a boolean",
            Item::Unsigned(_) | Item::Signed(_) => "a number",
            Item::Text(_) => "a text",
            Item::Bytes(_) => "bytes",
            Item::Array(_) => "an array",
            Item::Map(_) => "a map",
            Item::Other => "something unknown",
        };
        DecodeError::Unexpected { found, wanted }
    }
}

impl<'de> Decoder<'de> {
    fn next(&mut self) -> Result<Item<'de>, DecodeError> {
        let marker = Marker::from_u8(self.take(1)?[0]);
        Ok(match marker {
            Marker::Null => Item::Nil,
            Marker::False => Item::Bool(false),
            Marker::True => Item::Bool(true),
            Marker::FixPos(n) => Item::Unsigned(n.into()),
            Marker::FixNeg(n) => Item::Signed(n.into()),
            Marker::U8 => Item::Unsigned(self.unsigned(1)?),
            Marker::U16 => Item::Unsigned(self.unsigned(2)?),
            Marker::U32 => Item::Unsigned(self.unsigned(4)?),
            Marker::U64 => Item::Unsigned(self.unsigned(8)?),
            Marker::I8 => Item::Signed(self.signed(1)?),
            Marker::I16 => Item::Signed(self.signed(2)?),
            Marker::I32 => Item::Signed(self.signed(4)?),
            Marker::I64 => Item::Signed(self.signed(8)?),
            Marker::FixStr(length) => self.text(length.into())?,
            Marker::Str8 => self.unsigned(1).and_then(|length| self.text(length))?,
            Marker::Str16 => self.unsigned(2).and_then(|length| self.text(length))?,
            Marker::Str32 => self.unsigned(4).and_then(|length| self.text(length))?,
            Marker::Bin8 => self.unsigned(1).and_then(|length| self.take(length)).map(Item::Bytes)?,
            Marker::Bin16 => self.unsigned(2).and_then(|length| self.take(length)).map(Item::Bytes)?,
            Marker::Bin32 => self.unsigned(4).and_then(|length| self.take(length)).map(Item::Bytes)?,
            Marker::FixArray(length) => Item::Array(length.into()),
            Marker::Array16 => Item::Array(self.unsigned(2)?),
            Marker::Array32 => Item::Array(self.unsigned(4)?),
            Marker::FixMap(length) => Item::Map(length.into()),
            Marker::Map16 => Item::Map(self.unsigned(2)?),
            Marker::Map32 => Item::Map(self.unsigned(4)?),
            _ => Item::Other,
        })
    }

    fn take(&mut self, length: u64) -> Result<&'de [u8], DecodeError> {
        let length = usize::try_from(length).map_err(|_| DecodeError::End)?;
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(DecodeError::End)?;
        self.rest = rest;
        Ok(taken)
    }

    /// A number of so many bytes.
    fn unsigned(&mut self, bytes: u64) -> Result<u64, DecodeError> {
        Ok(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn signed(&mut self, bytes: u64) -> Result<i64, DecodeError> {
        let unused = 64 - 8 * bytes;
        Ok((self.unsigned(bytes)? << unused) as i64 >> unused)
    }

    fn text(&mut self, length: u64) -> Result<Item<'de>, DecodeError> {
        std::str::from_utf8(self.take(length)?).map(Item::Text).map_err(|_| DecodeError::Text)
    }

    fn number<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.next()? {
            Item::Unsigned(number) => visitor.visit_u64(number),
            Item::Signed(number) => visitor.visit_i64(number),
            other => Err(other.instead_of("a number")),
        }
    }

    fn elements<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.next()? {
            Item::Array(left) => {
                let mut elements = Elements { decoder: self, left };
                let value = visitor.visit_seq(&mut elements)?;
                if elements.left == 0 { Ok(value) } else { Err(DecodeError::More) }
            }
            other => Err(other.instead_of("an array")),
        }
    }
}

/// A method of [`de::Deserializer`] for a type that has one shape only.
macro_rules! one_shape {
    ($method:ident, $item:pat => $visit:ident($($value:expr)?), $wanted:literal) => {
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            match self.next()? {
                $item => visitor.$visit($($value)?),
                other => Err(other.instead_of($wanted)),
            }
        }
    };
}

/// Methods of [`de::Deserializer`] that all are one of [`Decoder`]'s.
macro_rules! forward {
    ($inner:ident: $($method:ident($($argument:ty),*))*) => {$(
        fn $method<V: Visitor<'de>>(self, $(_: $argument,)* visitor: V) -> Result<V::Value, DecodeError> {
            self.$inner(visitor)
        }
    )*};
}

impl<'de> de::Deserializer<'de> for &mut Decoder<'de> {
    type Error = DecodeError;

    fn is_human_readable(&self) -> bool {
        false
    }

    one_shape!(deserialize_bool, Item::Bool(value) => visit_bool(value), "a boolean");
    one_shape!(deserialize_str, Item::Text(text) => visit_str(text), "a text");
    one_shape!(deserialize_string, Item::Text(text) => visit_str(text), "a text");
    one_shape!(deserialize_identifier, Item::Text(text) => visit_str(text), "a name");
    one_shape!(deserialize_bytes, Item::Bytes(bytes) => visit_bytes(bytes), "bytes");
    one_shape!(deserialize_byte_buf, Item::Bytes(bytes) => visit_bytes(bytes), "bytes");

    forward! { number:
        deserialize_u8() deserialize_u16() deserialize_u32() deserialize_u64()
        deserialize_i8() deserialize_i16() deserialize_i32() deserialize_i64()
    }
    forward! { elements:
        deserialize_seq() deserialize_tuple(usize) deserialize_tuple_struct(&'static str, usize)
        deserialize_struct(&'static str, &'static [&'static str])
    }

    /// For paths, which are bytes if they are not UTF-8.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.next()? {
            Item::Text(text) => visitor.visit_str(text),
            Item::Bytes(bytes) => visitor.visit_bytes(bytes),
            other => Err(other.instead_of("a text or bytes")),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.rest.split_first() {
            Some((first, rest)) if *first == Marker::Null.to_u8() => {
                self.rest = rest;
                visitor.visit_none()
            }
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.next()? {
            Item::Map(left) => {
                let mut pairs = Elements { decoder: self, left };
                let value = visitor.visit_map(&mut pairs)?;
                if pairs.left == 0 { Ok(value) } else { Err(DecodeError::More) }
            }
            other => Err(other.instead_of("a map")),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        // The name itself is read with the variant.
        let begin = self.rest;
        match self.next()? {
            Item::Text(_) => {
                self.rest = begin;
                visitor.visit_enum(Variant { decoder: self, has_content: false })
            }
            Item::Map(1) => visitor.visit_enum(Variant { decoder: self, has_content: true }),
            other => Err(other.instead_of("a variant")),
        }
    }

    // None of our types has any of these.
    forward_to_deserialize_any! { f32 f64 char unit unit_struct ignored_any }
}

/// What is left of an array or a map.
struct Elements<'a, 'de> {
    decoder: &'a mut Decoder<'de>,
    left: u64,
}

impl Elements<'_, '_> {
    fn next(&mut self) -> bool {
        let is_there = self.left > 0;
        self.left -= u64::from(is_there);
        is_there
    }

    /// At most as many as there are bytes: each takes one at least.
    fn most(&self) -> Option<usize> {
        usize::try_from(self.left).ok().map(|left| left.min(self.decoder.rest.len()))
    }
}

impl<'de> de::SeqAccess<'de> for &mut Elements<'_, 'de> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, DecodeError> {
        if self.next() { seed.deserialize(&mut *self.decoder).map(Some) } else { Ok(None) }
    }

    fn size_hint(&self) -> Option<usize> {
        self.most()
    }
}

impl<'de> de::MapAccess<'de> for &mut Elements<'_, 'de> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DecodeError> {
        if self.next() { seed.deserialize(&mut *self.decoder).map(Some) } else { Ok(None) }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, DecodeError> {
        seed.deserialize(&mut *self.decoder)
    }

    fn size_hint(&self) -> Option<usize> {
        self.most()
    }
}

/// A variant's name and then its content, if it has any.
struct Variant<'a, 'de> {
    decoder: &'a mut Decoder<'de>,
    has_content: bool,
}

impl Variant<'_, '_> {
    fn check(&self, has_content: bool) -> Result<(), DecodeError> {
        match (self.has_content, has_content) {
            (true, false) => Err(DecodeError::More),
            (false, true) => Err(DecodeError::Unexpected { found: "a name", wanted: "a variant with content" }),
            _ => Ok(()),
        }
    }
}

impl<'de> de::EnumAccess<'de> for Variant<'_, 'de> {
    type Error = DecodeError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), DecodeError> {
        let variant = seed.deserialize(&mut *self.decoder)?;
        Ok((variant, self))
    }
}

impl<'de> de::VariantAccess<'de> for Variant<'_, 'de> {
    type Error = DecodeError;

    fn unit_variant(self) -> Result<(), DecodeError> {
        self.check(false)
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, DecodeError> {
        self.check(true)?;
        seed.deserialize(self.decoder)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, DecodeError> {
        self.check(true)?;
        self.decoder.elements(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, DecodeError> {
        self.check(true)?;
        self.decoder.elements(visitor)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::{collection, prelude::*};

    use super::*;
    use crate::shared::{
        path::TreePath,
        wire::{Request, Response},
    };

    /// Every shape that our types have.
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
        fn what_was_written_is_read_and_no_part_of_it(value in all(), cut: prop::sample::Index) {
            let bytes = to_vec(&value).unwrap();
            prop_assert_eq!(&from_slice::<All>(&bytes).unwrap(), &value);
            // As another reader of the format has it.
            prop_assert_eq!(&rmp_serde::from_slice::<All>(&bytes).unwrap(), &value);
            prop_assert_eq!(first_field::<bool>(&bytes), Ok(value.flag));
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
    fn counts_that_lie_are_found_out_before_anything_is_made_room_for() {
        for bytes in [&b"\xdd\xff\xff\xff\xff"[..], b"\xdd\xff\xff\xff\xff\xc0", b"\xdf\xff\xff\xff\xff"] {
            assert!(from_slice::<Vec<Kind>>(bytes).is_err());
            assert!(from_slice::<BTreeMap<String, Kind>>(bytes).is_err());
        }
        assert_eq!(from_slice::<String>(b"\xdb\xff\xff\xff\xffx"), Err(DecodeError::End));
        assert_eq!(from_slice::<Wrapped>(b"\xc6\xff\xff\xff\xffx").unwrap_err(), DecodeError::End);
    }

    #[test]
    fn an_error_says_what_is_wrong() {
        let error = |bytes: &[u8]| from_slice::<Request>(bytes).unwrap_err().to_string();
        assert_eq!(error(b""), "it ends too early");
        assert_eq!(error(b"\x07"), "a number where a variant should be");
        assert_eq!(error(b"\xa4Ping\xc0"), "there is more than was expected");
        assert_eq!(error(b"\x81\xa4Ping\xc0"), "there is more than was expected");
        assert_eq!(error(b"\xa4Data"), "a name where a variant with content should be");
        assert_eq!(error(b"\x81\xa4Data\xa1x"), "a text where bytes should be");
        assert_eq!(
            error(b"\x81\xa8Attempts\x90"),
            "invalid length 0, expected struct variant Request::Attempts with 1 element"
        );
        assert_eq!(error(b"\x81\xa8Attempts\x92\x01\x01"), "there is more than was expected");
        assert_eq!(error(b"\x81\xa8Attempts\x81\xa4most\x01"), "a map where an array should be");
        assert_eq!(error(b"\xca\0\0\0\0"), "something unknown where a variant should be");
        let not_utf8 = from_slice::<Response>(b"\x81\xa4Note\xa1\xff").unwrap_err();
        assert_eq!(not_utf8, DecodeError::Text);
    }
}
