//! A JSON object that keeps what it does not know: the order of its fields, and their values letter by letter. What a plugin
//! before ours gave a pod, and how another plugin is configured, is passed on by a program that knows a few fields of it.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, MapAccess, Visitor},
    ser::SerializeMap as _,
};
use serde_json::value::{RawValue, to_raw_value};

/// The fields in their order. Of a name that stands twice the last value counts, as in Go.
#[derive(Clone, Debug, Default)]
pub struct Object(Vec<(String, Box<RawValue>)>);

impl Object {
    /// The value of a field; none where it is absent or null.
    ///
    /// # Errors
    /// Of a value of another type.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, serde_json::Error> {
        self.raw(name).map_or(Ok(None), |raw| serde_json::from_str(raw.get()))
    }

    /// The value of a field as it was written.
    #[must_use]
    pub fn raw(&self, name: &str) -> Option<&RawValue> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| &**value)
    }

    /// Sets a field: in its place, or behind all others.
    ///
    /// # Errors
    /// Where the value is nothing that JSON knows.
    pub fn set<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), serde_json::Error> {
        self.put(name.to_owned(), to_raw_value(value)?);
        Ok(())
    }

    fn put(&mut self, name: String, value: Box<RawValue>) {
        match self.0.iter_mut().find(|(own, _)| *own == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut object = Object::default();
                while let Some((name, value)) = map.next_entry()? {
                    object.put(name, value);
                }
                Ok(object)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_stays_as_it_was_written() {
        let text = r#"{"z":1.50,"a":{"y":[ 1, 2 ],"b":null},"n":12345678901234567890123}"#;
        let mut object: Object = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&object).unwrap(), text);
        object.set("a", &"x\"y").unwrap();
        object.set("new", &true).unwrap();
        let want = r#"{"z":1.50,"a":"x\"y","n":12345678901234567890123,"new":true}"#;
        assert_eq!(serde_json::to_string(&object).unwrap(), want);
    }

    #[test]
    fn fields_are_read_by_their_type() {
        let object: Object = serde_json::from_str(r#"{"a":1,"b":null,"a":2}"#).unwrap();
        assert_eq!(object.read::<u8>("a").unwrap(), Some(2), "the last one");
        assert_eq!(object.read::<u8>("b").unwrap(), None);
        assert_eq!(object.read::<u8>("c").unwrap(), None);
        object.read::<String>("a").unwrap_err();
        for text in ["[]", "1", "{", "", "{} {}"] {
            serde_json::from_str::<Object>(text).unwrap_err();
        }
    }
}
