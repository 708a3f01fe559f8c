//! D-Bus values.
//!
//! D-Bus Specification, "Type System".

/// A value of any type. The agent does not use all basic types, but it has to parse them to find what follows.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Byte(u8),
    Bool(bool),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    F64(f64),
    Str(String),
    Path(String),
    Signature(String),
    /// An index into the file descriptors of the message. There are never any, because they are not negotiated.
    Fd(u32),
    /// An array of bytes (`ay`). As a [`Value::Array`] each byte would take 32.
    Bytes(Vec<u8>),
    /// The signature of the elements, and the elements.
    Array(String, Vec<Value>),
    Struct(Vec<Value>),
    Entry(Box<(Value, Value)>),
    Variant(Box<Value>),
}

impl Value {
    pub fn str(text: &str) -> Value {
        Value::Str(text.to_owned())
    }

    /// An array of strings (`as`).
    pub fn strings<'a>(texts: impl IntoIterator<Item = &'a str>) -> Value {
        Value::Array("s".into(), texts.into_iter().map(Value::str).collect())
    }

    /// The text of a string, object path or signature.
    pub fn text(&self) -> Option<&str> {
        match self {
            Value::Str(text) | Value::Path(text) | Value::Signature(text) => Some(text),
            Value::Variant(inner) => inner.text(),
            _ => None,
        }
    }

    pub fn bool(&self) -> Option<bool> {
        match self {
            Value::Bool(value) => Some(*value),
            Value::Variant(inner) => inner.bool(),
            _ => None,
        }
    }

    /// The value of any integer that is not negative.
    pub fn unsigned(&self) -> Option<u64> {
        match self {
            Value::Byte(n) => Some(u64::from(*n)),
            Value::U16(n) => Some(u64::from(*n)),
            Value::U32(n) => Some(u64::from(*n)),
            Value::U64(n) => Some(*n),
            Value::I16(n) => u64::try_from(*n).ok(),
            Value::I32(n) => u64::try_from(*n).ok(),
            Value::I64(n) => u64::try_from(*n).ok(),
            Value::Variant(inner) => inner.unsigned(),
            _ => None,
        }
    }

    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Value::Bytes(bytes) => Some(bytes),
            Value::Variant(inner) => inner.bytes(),
            _ => None,
        }
    }

    /// The elements of an array, or the members of a struct; nothing for other types.
    pub fn items(&self) -> &[Value] {
        match self {
            Value::Array(_, items) | Value::Struct(items) => items,
            Value::Variant(inner) => inner.items(),
            _ => &[],
        }
    }

    /// Append this value's signature.
    pub fn signature(&self, out: &mut String) {
        match self {
            Value::Byte(_) => out.push('y'),
            Value::Bool(_) => out.push('b'),
            Value::I16(_) => out.push('n'),
            Value::U16(_) => out.push('q'),
            Value::I32(_) => out.push('i'),
            Value::U32(_) => out.push('u'),
            Value::I64(_) => out.push('x'),
            Value::U64(_) => out.push('t'),
            Value::F64(_) => out.push('d'),
            Value::Str(_) => out.push('s'),
            Value::Path(_) => out.push('o'),
            Value::Signature(_) => out.push('g'),
            Value::Fd(_) => out.push('h'),
            Value::Bytes(_) => out.push_str("ay"),
            Value::Array(element, _) => {
                out.push('a');
                out.push_str(element);
            }
            Value::Struct(members) => {
                out.push('(');
                members.iter().for_each(|member| member.signature(out));
                out.push(')');
            }
            Value::Entry(entry) => {
                out.push('{');
                entry.0.signature(out);
                entry.1.signature(out);
                out.push('}');
            }
            Value::Variant(_) => out.push('v'),
        }
    }
}
