//! D-Bus messages: a header and a body.
//!
//! Format: D-Bus Specification, "Message Protocol".

use super::{
    marshal::{Reader, WireError, Writer},
    value::Value,
};

/// The limit for a message, in bytes. The specification allows 128 MiB, but a list of ten thousand units is only 3 MiB.
const LARGEST: usize = 16 << 20;
/// The number of bytes at the beginning of a message that tell its whole length.
pub const HEAD: usize = 16;

const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// A method to call.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    pub destination: &'a str,
    pub path: &'a str,
    pub interface: &'a str,
    pub member: &'a str,
    pub arguments: &'a [Value],
}

impl Call<'_> {
    /// Encode the call. `serial` must not be 0; the reply will name it.
    pub fn to_bytes(&self, serial: u32) -> Vec<u8> {
        let (mut body, mut signature) = (Writer::default(), String::new());
        for argument in self.arguments {
            body.value(argument);
            argument.signature(&mut signature);
        }
        let field = |code: u8, value: Value| Value::Struct(vec![Value::Byte(code), Value::Variant(Box::new(value))]);
        let mut fields = vec![
            field(PATH, Value::Path(self.path.to_owned())),
            field(DESTINATION, Value::str(self.destination)),
            field(INTERFACE, Value::str(self.interface)),
            field(MEMBER, Value::str(self.member)),
        ];
        if !signature.is_empty() {
            fields.push(field(SIGNATURE, Value::Signature(signature)));
        }
        let mut message = Writer::default();
        // Little-endian, a method call, no flags, version 1.
        message.bytes.extend_from_slice(&[b'l', 1, 0, 1]);
        message.value(&Value::U32(body.bytes.len() as u32));
        message.value(&Value::U32(serial));
        message.value(&Value::Array("(yv)".into(), fields));
        message.align(8);
        message.bytes.extend_from_slice(&body.bytes);
        message.bytes
    }
}

/// The kind of a received message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// The call with this serial succeeded.
    Reply(u32),
    /// The call with this serial failed with the error of this name.
    Error(u32, String),
    Signal(Signal),
    /// A call, or a type of a later specification. It is ignored.
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signal {
    /// The object that sent the signal.
    pub path: String,
    pub interface: String,
    pub member: String,
}

/// A received message. The body is only parsed when it is asked for, because most signals are ignored.
#[derive(Debug, Clone)]
pub struct Message {
    pub kind: Kind,
    signature: String,
    big_endian: bool,
    bytes: Vec<u8>,
    body: usize,
}

impl Message {
    /// The length of the whole message in bytes, according to its first [`HEAD`] bytes.
    pub fn length(head: &[u8; HEAD]) -> Result<usize, WireError> {
        let big_endian = is_big_endian(head)?;
        let body = Reader::new(head, 4, big_endian).u32()? as usize;
        let fields = Reader::new(head, 12, big_endian).u32()? as usize;
        match (HEAD + fields).next_multiple_of(8).checked_add(body) {
            Some(length) if length <= LARGEST => Ok(length),
            _ => Err(WireError("a message is too large")),
        }
    }

    /// Parse a whole message. It has exactly [`Message::length`] bytes.
    pub fn parse(bytes: Vec<u8>) -> Result<Message, WireError> {
        let big_endian = is_big_endian(&bytes)?;
        let mut reader = Reader::new(&bytes, 12, big_endian);
        let fields = reader.values("a(yv)")?;
        reader.align(8)?;
        let body = reader.at();

        let (mut path, mut interface, mut member) = (None, None, None);
        let (mut error, mut signature) = (None, String::new());
        let mut reply_to = None;
        for field in fields.iter().flat_map(Value::items) {
            let [Value::Byte(code), value] = field.items() else {
                return Err(WireError("a header field has the wrong type"));
            };
            let text = || value.text().map(str::to_owned);
            match *code {
                PATH => path = text(),
                INTERFACE => interface = text(),
                MEMBER => member = text(),
                ERROR_NAME => error = text(),
                REPLY_SERIAL => reply_to = value.unsigned().and_then(|n| u32::try_from(n).ok()),
                SIGNATURE => signature = text().unwrap_or_default(),
                _ => {}
            }
        }
        let lacking = WireError("a message lacks a required header field");
        let kind = match bytes[1] {
            2 => Kind::Reply(reply_to.ok_or(lacking)?),
            3 => Kind::Error(reply_to.ok_or(lacking)?, error.ok_or(lacking)?),
            4 => Kind::Signal(Signal {
                path: path.ok_or(lacking)?,
                interface: interface.ok_or(lacking)?,
                member: member.ok_or(lacking)?,
            }),
            _ => Kind::Other,
        };
        Ok(Message { kind, signature, big_endian, bytes, body })
    }

    /// The body's values.
    pub fn arguments(&self) -> Result<Vec<Value>, WireError> {
        // A body begins at a multiple of 8, so counting from the message's start or the body's is the same.
        Reader::new(&self.bytes, self.body, self.big_endian).values(&self.signature)
    }
}

fn is_big_endian(bytes: &[u8]) -> Result<bool, WireError> {
    match bytes {
        [b'l', _, _, 1, ..] if bytes.len() >= HEAD => Ok(false),
        [b'B', _, _, 1, ..] if bytes.len() >= HEAD => Ok(true),
        _ => Err(WireError("this is not a D-Bus message")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(bytes: &[u8]) -> [u8; HEAD] {
        bytes[..HEAD].try_into().unwrap()
    }

    #[test]
    fn a_call_is_as_long_as_its_head_says() {
        let arguments = [Value::str("web.service"), Value::str("replace")];
        let call = Call { destination: "a.b", path: "/a/b", interface: "a.b.C", member: "D", arguments: &arguments };
        let bytes = call.to_bytes(9);
        assert_eq!(Message::length(&head(&bytes)), Ok(bytes.len()));
        let message = Message::parse(bytes).unwrap();
        assert_eq!(message.kind, Kind::Other);
        assert_eq!(message.arguments().unwrap(), arguments);
    }

    #[test]
    fn lengths_beyond_the_limit_are_refused() {
        let mut bytes = *b"l\x02\0\x01\0\0\0\0\x01\0\0\0\0\0\0\0";
        assert_eq!(Message::length(&bytes), Ok(16));
        bytes[7] = 0xff;
        assert!(Message::length(&bytes).is_err());
        bytes[15] = 0xff;
        assert!(Message::length(&bytes).is_err());
    }

    proptest! {
        #[test]
        fn random_messages_never_panic(order in prop_oneof![Just(b'l'), Just(b'B')], kind in 0..6u8, rest in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = vec![order, kind, 0, 1];
            bytes.extend(rest);
            if let Some(head) = bytes.first_chunk() {
                let _ = Message::length(head);
            }
            if let Ok(message) = Message::parse(bytes) {
                let _ = message.arguments();
            }
        }

        #[test]
        fn damaged_messages_never_panic(at in 0..120usize, with: u8, cut in 0..200usize) {
            let arguments = [Value::strings(["a", "b"]), Value::Variant(Box::new(Value::U64(3)))];
            let call = Call { destination: "a.b", path: "/a/b", interface: "a.b.C", member: "D", arguments: &arguments };
            let mut bytes = call.to_bytes(9);
            bytes[1] = 2 + with % 3;
            let at = at % bytes.len();
            bytes[at] = with;
            bytes.truncate(cut);
            if let Ok(message) = Message::parse(bytes) {
                let _ = message.arguments();
            }
        }
    }
}
