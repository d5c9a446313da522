//! The body of a request for a job, as it is written.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// The body of a request, as it is written.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Asked {
    #[serde(deserialize_with = "list")]
    pub(super) prefixes: Option<Vec<String>>,
    pub(super) glob: Option<String>,
    #[serde(deserialize_with = "list")]
    pub(super) keys: Option<Vec<String>>,
    #[serde(deserialize_with = "names")]
    pub(super) index: Option<Vec<String>>,
    #[serde(deserialize_with = "list")]
    pub(super) ranges: Option<Vec<String>>,
    #[serde(deserialize_with = "list")]
    pub(super) parts: Option<Vec<AskedPart>>,
    pub(super) tier: Option<String>,
    pub(super) copies: Option<String>,
    pub(super) rate: Option<Value>,
    pub(super) priority: i32,
    pub(super) deadline: Option<String>,
    pub(super) pin: Option<Value>,
    pub(super) verify: bool,
}

/// A key, and its bytes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AskedPart {
    pub(super) key: String,
    #[serde(default)]
    pub(super) ranges: Vec<String>,
}

/// One name or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Names {
    One(String),
    Several(Vec<String>),
}

impl Asked {
    pub(super) fn parse(body: &[u8]) -> Result<Self, String> {
        // A list would pass for the fields in their order.
        if body.trim_ascii_start().first() != Some(&b'{') {
            return Err("the body is no JSON object".into());
        }
        let asked: Self = serde_json::from_slice(body).map_err(|error| match error.is_data() {
            true => format!("the body asks for what no job does: {error}"),
            false => format!("the body is no JSON object: {error}"),
        })?;
        match asked.empty() {
            None => Ok(asked),
            Some(name) => Err(format!(
                "{name} is empty: name at least one, or leave it out, which asks for everything below the path's prefix"
            )),
        }
    }

    /// The list that is there and has nothing in it: a script that found nothing does not ask for everything.
    fn empty(&self) -> Option<&'static str> {
        fn is<T>(list: &Option<Vec<T>>) -> bool {
            list.as_ref().is_some_and(Vec::is_empty)
        }
        let lists = [
            ("prefixes", is(&self.prefixes)),
            ("keys", is(&self.keys)),
            ("index", is(&self.index)),
            ("ranges", is(&self.ranges)),
            ("parts", is(&self.parts)),
        ];
        let empty = lists.into_iter().find(|(_, is_empty)| *is_empty);
        empty.map(|(name, _)| name)
    }
}

/// A list that is there; `null` is none.
fn list<'de, D, T>(list: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Vec::deserialize(list).map(Some)
}

fn names<'de, D: Deserializer<'de>>(names: D) -> Result<Option<Vec<String>>, D::Error> {
    Ok(Some(match Names::deserialize(names)? {
        Names::One(name) => vec![name],
        Names::Several(names) => names,
    }))
}
