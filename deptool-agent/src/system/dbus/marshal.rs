//! Encodes and decodes D-Bus values.
//!
//! Format: D-Bus Specification, "Marshaling (Wire Format)". Values are written in little-endian order and read in either
//! order. Lengths and signatures from the peer are not trusted.

use super::value::Value;

/// How deep arrays, structs and variants may be nested: the specification's limit.
const DEEPEST: usize = 64;
/// The specification's limit for one array, in bytes.
const LONGEST_ARRAY: usize = 64 << 20;
const CUT_OFF: WireError = WireError("a message is cut off");

/// Bytes that are not a valid D-Bus message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WireError(pub &'static str);

/// The alignment of a type's values, counted from the first byte of the message.
fn alignment(code: u8) -> usize {
    match code {
        b'n' | b'q' => 2,
        b'b' | b'i' | b'u' | b's' | b'o' | b'a' | b'h' => 4,
        b'x' | b't' | b'd' | b'(' | b'{' => 8,
        _ => 1,
    }
}

/// Appends values to a message, little-endian.
#[derive(Debug, Default)]
pub struct Writer {
    pub bytes: Vec<u8>,
}

impl Writer {
    pub fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    fn number(&mut self, bytes: &[u8]) {
        self.align(bytes.len());
        self.bytes.extend_from_slice(bytes);
    }

    /// Write a length. The agent's own messages are far below all limits.
    fn length(&mut self, length: usize) {
        self.number(&(length as u32).to_le_bytes());
    }

    pub fn value(&mut self, value: &Value) {
        match value {
            Value::Byte(n) => self.bytes.push(*n),
            Value::Bool(b) => self.number(&u32::from(*b).to_le_bytes()),
            Value::I16(n) => self.number(&n.to_le_bytes()),
            Value::U16(n) => self.number(&n.to_le_bytes()),
            Value::I32(n) => self.number(&n.to_le_bytes()),
            Value::U32(n) | Value::Fd(n) => self.number(&n.to_le_bytes()),
            Value::I64(n) => self.number(&n.to_le_bytes()),
            Value::U64(n) => self.number(&n.to_le_bytes()),
            Value::F64(n) => self.number(&n.to_le_bytes()),
            Value::Str(text) | Value::Path(text) => {
                self.length(text.len());
                self.bytes.extend_from_slice(text.as_bytes());
                self.bytes.push(0);
            }
            Value::Signature(text) => self.short_text(text),
            Value::Bytes(bytes) => {
                self.length(bytes.len());
                self.bytes.extend_from_slice(bytes);
            }
            Value::Array(element, items) => self.array(element, items),
            Value::Struct(members) => {
                self.align(8);
                members.iter().for_each(|member| self.value(member));
            }
            Value::Entry(entry) => {
                self.align(8);
                self.value(&entry.0);
                self.value(&entry.1);
            }
            Value::Variant(inner) => {
                let mut signature = String::new();
                inner.signature(&mut signature);
                self.short_text(&signature);
                self.value(inner);
            }
        }
    }

    fn short_text(&mut self, text: &str) {
        self.bytes.push(text.len() as u8);
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
    }

    fn array(&mut self, element: &str, items: &[Value]) {
        self.length(0);
        let length_at = self.bytes.len() - 4;
        // The length does not count the padding before the first element. The padding is there even in an empty array.
        self.align(alignment(element.as_bytes()[0]));
        let start = self.bytes.len();
        items.iter().for_each(|item| self.value(item));
        let length = (self.bytes.len() - start) as u32;
        self.bytes[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }
}

/// Reads values from a message or from its beginning.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big_endian: bool,
}

impl<'a> Reader<'a> {
    /// Begin at position `at`. `bytes` must begin with the first byte of the message, because alignment counts from there.
    pub fn new(bytes: &'a [u8], at: usize, big_endian: bool) -> Self {
        Reader { bytes, at, big_endian }
    }

    pub fn at(&self) -> usize {
        self.at
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let end = self.at.checked_add(count).ok_or(CUT_OFF)?;
        let bytes = self.bytes.get(self.at..end).ok_or(CUT_OFF)?;
        self.at = end;
        Ok(bytes)
    }

    pub fn align(&mut self, to: usize) -> Result<(), WireError> {
        let padding = self.at.next_multiple_of(to) - self.at;
        self.take(padding).map(drop)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        self.align(N)?;
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        if self.big_endian {
            bytes.reverse();
        }
        Ok(bytes)
    }

    pub fn u32(&mut self) -> Result<u32, WireError> {
        Ok(u32::from_le_bytes(self.number()?))
    }

    /// Read `length` bytes of UTF-8 and the zero byte after them.
    fn text(&mut self, length: usize) -> Result<String, WireError> {
        let bytes = self.take(length)?;
        if self.take(1)? != [0] || bytes.contains(&0) {
            return Err(WireError("a string lacks its final zero byte or has a zero byte inside"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| WireError("a string is not UTF-8"))?;
        Ok(text.to_owned())
    }

    fn signature(&mut self) -> Result<String, WireError> {
        let length = self.take(1)?[0];
        self.text(usize::from(length))
    }

    /// Read all values of a body with this signature.
    pub fn values(&mut self, signature: &str) -> Result<Vec<Value>, WireError> {
        self.sequence(signature.as_bytes(), 0)
    }

    fn sequence(&mut self, mut signature: &[u8], depth: usize) -> Result<Vec<Value>, WireError> {
        let mut values = Vec::new();
        while !signature.is_empty() {
            let (one, rest) = split_type(signature)?;
            values.push(self.value(one, depth)?);
            signature = rest;
        }
        Ok(values)
    }

    /// Read one value. `one` is the signature of a single complete type.
    fn value(&mut self, one: &[u8], depth: usize) -> Result<Value, WireError> {
        if depth > DEEPEST {
            return Err(WireError("values are nested too deep"));
        }
        Ok(match one {
            [b'y'] => Value::Byte(self.take(1)?[0]),
            [b'b'] => Value::Bool(self.u32()? != 0),
            [b'n'] => Value::I16(i16::from_le_bytes(self.number()?)),
            [b'q'] => Value::U16(u16::from_le_bytes(self.number()?)),
            [b'i'] => Value::I32(i32::from_le_bytes(self.number()?)),
            [b'u'] => Value::U32(self.u32()?),
            [b'x'] => Value::I64(i64::from_le_bytes(self.number()?)),
            [b't'] => Value::U64(u64::from_le_bytes(self.number()?)),
            [b'd'] => Value::F64(f64::from_le_bytes(self.number()?)),
            [b'h'] => Value::Fd(self.u32()?),
            [b's'] => {
                let length = self.u32()? as usize;
                Value::Str(self.text(length)?)
            }
            [b'o'] => {
                let length = self.u32()? as usize;
                Value::Path(self.text(length)?)
            }
            [b'g'] => Value::Signature(self.signature()?),
            [b'v'] => {
                let signature = self.signature()?;
                match split_type(signature.as_bytes())? {
                    (inner, []) => Value::Variant(Box::new(self.value(inner, depth + 1)?)),
                    _ => return Err(WireError("a variant holds more than one value")),
                }
            }
            [b'a', element @ ..] => self.array(element, depth)?,
            [b'(', members @ .., b')'] => {
                self.align(8)?;
                Value::Struct(self.sequence(members, depth + 1)?)
            }
            [b'{', members @ .., b'}'] => {
                self.align(8)?;
                let mut members = self.sequence(members, depth + 1)?.into_iter();
                match (members.next(), members.next(), members.next()) {
                    (Some(key), Some(value), None) => Value::Entry(Box::new((key, value))),
                    _ => return Err(WireError("a dictionary entry is not a pair")),
                }
            }
            _ => return Err(WireError("a signature has an unknown type")),
        })
    }

    fn array(&mut self, element: &[u8], depth: usize) -> Result<Value, WireError> {
        let length = self.u32()? as usize;
        if length > LONGEST_ARRAY {
            return Err(WireError("an array is too long"));
        }
        if element == b"y" {
            return Ok(Value::Bytes(self.take(length)?.to_vec()));
        }
        let (&code, _) = element.split_first().ok_or(WireError("an array has no type"))?;
        self.align(alignment(code))?;
        let end = self.at + length;
        if end > self.bytes.len() {
            return Err(CUT_OFF);
        }
        let mut items = Vec::new();
        while self.at < end {
            // Every type takes at least one byte, so this loop ends.
            items.push(self.value(element, depth + 1)?);
        }
        if self.at != end {
            return Err(WireError("an array ends inside an element"));
        }
        // The signature is ASCII: either an element was read with it, or `split_type` has checked it.
        Ok(Value::Array(String::from_utf8_lossy(element).into_owned(), items))
    }
}

/// Split a signature after its first complete type. Refuses empty structs, whose values would take no space.
fn split_type(signature: &[u8]) -> Result<(&[u8], &[u8]), WireError> {
    let length = type_length(signature, 0)?;
    Ok(signature.split_at(length))
}

fn type_length(signature: &[u8], depth: usize) -> Result<usize, WireError> {
    const UNFINISHED: WireError = WireError("a signature is cut off");
    if depth > DEEPEST {
        return Err(WireError("a signature is nested too deep"));
    }
    let close = match signature.first().ok_or(UNFINISHED)? {
        b'y' | b'b' | b'n' | b'q' | b'i' | b'u' | b'x' | b't' | b'd' | b'h' | b's' | b'o' | b'g' | b'v' => {
            return Ok(1);
        }
        b'a' => return Ok(1 + type_length(&signature[1..], depth + 1)?),
        b'(' => b')',
        b'{' => b'}',
        _ => return Err(WireError("a signature has an unknown type")),
    };
    let mut length = 1;
    while *signature.get(length).ok_or(UNFINISHED)? != close {
        length += type_length(&signature[length..], depth + 1)?;
    }
    if length == 1 {
        return Err(WireError("a signature has an empty struct"));
    }
    Ok(length + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round_trip(values: &[Value]) {
        let (mut writer, mut signature) = (Writer::default(), String::new());
        for value in values {
            writer.value(value);
            value.signature(&mut signature);
        }
        let mut reader = Reader::new(&writer.bytes, 0, false);
        assert_eq!(reader.values(&signature).unwrap(), values, "{signature}");
        assert_eq!(reader.at(), writer.bytes.len());
    }

    #[test]
    fn what_a_transient_unit_needs_survives() {
        let property = |name: &str, value| Value::Struct(vec![Value::str(name), Value::Variant(Box::new(value))]);
        round_trip(&[
            Value::str("deptool.scope"),
            Value::Array(
                "(sv)".into(),
                vec![
                    property("PIDs", Value::Array("u".into(), vec![Value::U32(7)])),
                    property("SendSIGHUP", Value::Bool(false)),
                ],
            ),
            Value::Array("(sa(sv))".into(), vec![]),
        ]);
    }

    /// The example of the specification's section on marshalling strings and arrays, in both byte orders.
    #[test]
    fn bytes_are_those_of_the_specification() {
        let mut writer = Writer::default();
        writer.value(&Value::str("foo"));
        writer.value(&Value::str("+"));
        writer.value(&Value::str("bar"));
        assert_eq!(writer.bytes, b"\x03\0\0\0foo\0\x01\0\0\0+\0\0\0\x03\0\0\0bar\0");
        let big = [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5];
        let expected = Value::Array("x".into(), vec![Value::I64(5)]);
        assert_eq!(Reader::new(&big, 0, true).values("ax").unwrap(), [expected]);
    }

    #[test]
    fn empty_structs_and_deep_nesting_are_refused() {
        let bytes = [0u8; 4096];
        for signature in ["a()", "()", "a", "(", "(y", "a{}", "a{y}", "z", &"a".repeat(200), &"(".repeat(200)] {
            let _ = Reader::new(&bytes, 0, false).values(signature).map(|values| assert!(values.len() < 2));
        }
        assert!(Reader::new(&bytes, 0, false).values("a()").is_err());
        // A variant in a variant in a variant …
        let nested = b"\x01v\0".repeat(1000);
        assert!(Reader::new(&nested, 0, false).values("v").is_err());
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<u8>().prop_map(Value::Byte),
            any::<bool>().prop_map(Value::Bool),
            any::<i16>().prop_map(Value::I16),
            any::<u32>().prop_map(Value::U32),
            any::<u64>().prop_map(Value::U64),
            "[a-z/]{0,9}".prop_map(Value::Str),
            "[a-z/]{0,9}".prop_map(Value::Path),
            prop::collection::vec(any::<u8>(), 0..9).prop_map(Value::Bytes),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                inner.clone().prop_map(|v| Value::Variant(Box::new(v))),
                prop::collection::vec(inner.clone(), 1..4).prop_map(Value::Struct),
                (inner, 0..4usize).prop_filter_map("ay is Bytes", |(v, n)| {
                    let mut signature = String::new();
                    v.signature(&mut signature);
                    (signature != "y").then(|| Value::Array(signature, vec![v; n]))
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_value_survives(values in prop::collection::vec(any_value(), 0..4)) {
            round_trip(&values);
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), signature in "[ybnqiuxtdhsogva(){}]{0,12}", at in 0..9usize, big: bool) {
            let _ = Reader::new(&bytes, at, big).values(&signature);
        }
    }
}
