//! Object ids and deployment ids. Each kind of object has an id type of its own, so a commit is never taken for a tree.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    str::FromStr,
};

use gix_hash::ObjectId;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// The text is not an object id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a SHA-1 object id")]
pub struct IdError(String);

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub ObjectId);

        impl $name {
            /// The first ten hex digits, for people.
            pub fn short(&self) -> String {
                self.0.to_hex_with_len(10).to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0.to_hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0.to_hex_with_len(10))
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(hex: &str) -> Result<Self, IdError> {
                match ObjectId::from_hex(hex.as_bytes()) {
                    Ok(id) if id.kind() == gix_hash::Kind::Sha1 => Ok(Self(id)),
                    _ => Err(IdError(crate::shared::text::printable(hex.as_bytes()))),
                }
            }
        }

        /// Hex in text formats, so that people can read the ledgers on a host; 20 bytes on the wire.
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serializer.serialize_bytes(self.0.as_slice())
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
                } else {
                    let bytes = <[u8; 20]>::try_from(deserializer.deserialize_bytes(RawBytes)?)
                        .map_err(|_| D::Error::custom("an object id has 20 bytes"))?;
                    Ok(Self(ObjectId::from(bytes)))
                }
            }
        }
    };
}

id_type! {
    /// A commit of the operator's repository.
    CommitId
}
id_type! {
    /// A tree: the root of the config tree, a host's directory or an app's directory.
    TreeId
}
id_type! {
    /// The content of a file.
    BlobId
}

/// One deployment to one host. The helper chooses the id, and can later ask about exactly this deployment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeploymentId([u8; DeploymentId::LENGTH]);

/// The text is not a deployment id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a deployment id")]
pub struct DeploymentIdError(String);

impl DeploymentId {
    const LENGTH: usize = 16;

    /// A new random id.
    pub fn random() -> io::Result<DeploymentId> {
        random_bytes().map(DeploymentId)
    }
}

impl fmt::Display for DeploymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::shared::text::hex(&self.0))
    }
}

impl fmt::Debug for DeploymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeploymentId({self})")
    }
}

impl FromStr for DeploymentId {
    type Err = DeploymentIdError;

    fn from_str(hex: &str) -> Result<Self, DeploymentIdError> {
        // Accept only the form that `Display` writes, so that ids can be compared as text.
        let bytes = crate::shared::text::unhex(hex.as_bytes()).and_then(|bytes| bytes.try_into().ok());
        bytes.map(DeploymentId).ok_or_else(|| DeploymentIdError(crate::shared::text::printable(hex.as_bytes())))
    }
}

/// Hex in text formats, bytes on the wire, like object ids.
impl Serialize for DeploymentId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { serializer.serialize_bytes(&self.0) }
    }
}

impl<'de> Deserialize<'de> for DeploymentId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            return String::deserialize(deserializer)?.parse().map_err(D::Error::custom);
        }
        let bytes = deserializer.deserialize_bytes(RawBytes)?.try_into();
        bytes.map(DeploymentId).map_err(|_| D::Error::custom("a deployment id has 16 bytes"))
    }
}

/// Unpredictable bytes from the kernel.
pub(crate) fn random_bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Collects bytes. It sets no limit, because a frame has one.
pub(crate) struct RawBytes;

impl serde::de::Visitor<'_> for RawBytes {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }

    fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::encoding;

    const HEX: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn an_id_survives_text_and_wire() {
        let id: CommitId = HEX.parse().unwrap();
        assert_eq!(id.to_string(), HEX);
        assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"{HEX}\""));
        let wire = encoding::to_vec(&id).unwrap();
        assert_eq!(wire.len(), 21);
        assert_eq!(encoding::from_slice::<CommitId>(&wire).unwrap(), id);
    }

    #[test]
    fn a_deployment_id_survives_text_and_wire_and_has_one_text_form() {
        let id = DeploymentId::random().unwrap();
        assert_ne!(id, DeploymentId::random().unwrap());
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(serde_json::from_str::<DeploymentId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
        assert_eq!(encoding::from_slice::<DeploymentId>(&encoding::to_vec(&id).unwrap()).unwrap(), id);
        for wrong in ["", "00", &"0g".repeat(16), &"0A".repeat(16), &"00".repeat(17), &"+1".repeat(16)] {
            assert!(wrong.parse::<DeploymentId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn anything_but_a_sha1_is_refused() {
        assert!("abc".parse::<TreeId>().is_err());
        assert!(encoding::from_slice::<TreeId>(&encoding::to_vec(&[1u8, 2]).unwrap()).is_err());
        let sha256 = "00".repeat(32);
        assert!(sha256.parse::<BlobId>().is_err());
    }
}
