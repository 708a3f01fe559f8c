//! JSON that people write, read strictly: an unknown key, a key that is there twice and an array in the place of an
//! object are errors, and an error names the key.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _, MapAccess, Visitor, value::MapAccessDeserializer},
};

use crate::shared::text::printable;

/// A document that can't be used: the key, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{why}", key.as_ref().map(|key| format!("{key}: ")).unwrap_or_default())]
pub struct JsonError {
    /// The path of the key in the document; `None` for the document itself.
    pub key: Option<String>,
    pub why: String,
}

/// Parse a document, which has to be an object.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, JsonError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let Object(document) = serde_path_to_error::deserialize(&mut json).map_err(|error| JsonError {
        // What is broken before its first key is broken as a whole.
        key: match error.path().to_string().as_str() {
            "?" | "." => None,
            key => Some(printable(key.as_bytes())),
        },
        why: printable(error.inner().to_string().as_bytes()),
    })?;
    json.end().map_err(|error| JsonError { key: None, why: error.to_string() })?;
    Ok(document)
}

/// A JSON object. Where serde expects a struct, JSON arrays would do as well.
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfObject<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for OfObject<T> {
            type Value = Object<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(OfObject(PhantomData))
    }
}

/// An object of pairs, each key once: a key that is there twice is an error, not a silent choice.
pub struct Pairs<K, V>(pub BTreeMap<K, V>);

impl<'de, K: Deserialize<'de> + Ord + fmt::Display, V: Deserialize<'de>> Deserialize<'de> for Pairs<K, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfPairs<K, V>(PhantomData<(K, V)>);
        impl<'de, K: Deserialize<'de> + Ord + fmt::Display, V: Deserialize<'de>> Visitor<'de> for OfPairs<K, V> {
            type Value = Pairs<K, V>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<K, V>, A::Error> {
                let mut pairs = BTreeMap::new();
                while let Some(key) = map.next_key::<K>()? {
                    if pairs.contains_key(&key) {
                        return Err(A::Error::custom(format_args!("'{key}' is named twice")));
                    }
                    pairs.insert(key, map.next_value()?);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(OfPairs(PhantomData))
    }
}

/// For `deserialize_with`.
pub fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Object::deserialize(deserializer).map(|Object(value)| value)
}

/// For `deserialize_with`.
pub fn objects<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let objects = Vec::<Object<T>>::deserialize(deserializer)?;
    Ok(objects.into_iter().map(|Object(value)| value).collect())
}
