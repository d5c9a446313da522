//! What a step does, by kind.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{Rules, allowed, time};
use crate::copy::{CopyOrder, Place};
use crate::pins::expiry;
use crate::warm::glob::Glob;
use crate::warm::order::{self, Order, Tier};

/// Bytes of one argument of a command, and how many it may have.
const LONGEST_ARGUMENT: usize = 16 << 10;
const MOST_ARGUMENTS: usize = 256;

/// Between two looks whether what is waited for is there.
const EVERY: Duration = Duration::from_secs(1);

/// What a step does.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Warms what it is asked for.
    Warm(Box<Warmed>),
    /// Waits until something is so.
    Wait(Wait, Duration),
    /// Copies objects from one dataset to another.
    Copy(Box<CopyOrder>),
    /// Runs a program with these arguments, of which the first is its path.
    Exec(Vec<String>),
    /// Has something run so many times.
    Scale(Scale, u32),
    /// Pins what a dataset has below a prefix.
    Pin(Pinned),
    /// Drops what is cached.
    Purge(Purged),
    /// Posts how the flow does to this URL.
    Notify(String),
}

/// What is warmed.
#[derive(Clone, Debug, PartialEq)]
pub struct Warmed {
    /// The dataset's name.
    pub dataset: String,
    /// What the keys begin with.
    pub prefix: String,
    /// The rest, as the body of a request for a job says it.
    body: Map<String, Value>,
    /// An object whose lines are keys below the prefix, to be warmed.
    pub manifest: Option<String>,
}

impl Warmed {
    /// What a job is asked for, with these keys of the manifest if there is one.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence.
    pub fn order(&self, keys: Vec<String>, has_nvme: bool) -> Result<Order, String> {
        let mut body = self.body.clone();
        if self.manifest.is_some() {
            body.insert("keys".into(), keys.into());
        }
        let body = match body.is_empty() {
            true => Vec::new(),
            false => serde_json::to_vec(&body).map_err(|error| error.to_string())?,
        };
        Order::parse(&self.dataset, &self.prefix, &body, has_nvme)
    }
}

/// What is waited for.
#[derive(Clone, Debug, PartialEq)]
pub enum Wait {
    /// So much of what a dataset has below a prefix is resident.
    Resident {
        /// The dataset's name.
        dataset: String,
        /// What the keys begin with.
        prefix: String,
        /// Where.
        tier: Tier,
        /// How much of it at least.
        percent: f64,
    },
    /// A GET is answered with this status.
    Url {
        /// Of what.
        url: String,
        /// The status.
        status: u16,
    },
    /// So many members are alive, at least.
    Members(usize),
}

/// What is scaled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scale {
    /// By a POST of how many to this URL.
    Webhook(String),
    /// By a PATCH of a scale subresource of Kubernetes: this URL.
    Kubernetes(String),
}

/// What is pinned.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pinned {
    /// The dataset's name.
    pub dataset: String,
    /// What the keys begin with.
    #[serde(default)]
    pub prefix: String,
    /// Until when, or for how long.
    pub expires: Option<String>,
}

/// What is purged.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Purged {
    /// The dataset's name.
    pub dataset: String,
    /// An object, or all below a prefix that ends in a slash or is empty.
    pub key: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WaitAsked {
    dataset: Option<String>,
    #[serde(default)]
    prefix: String,
    tier: Option<Tier>,
    resident: Option<f64>,
    url: Option<String>,
    status: Option<u16>,
    members: Option<usize>,
    every: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CopyAsked {
    from: String,
    to: String,
    glob: Option<String>,
    rate: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExecAsked {
    command: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScaleAsked {
    webhook: Option<String>,
    resource: Option<String>,
    replicas: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NotifyAsked {
    url: String,
}

impl Action {
    /// Their names.
    pub(super) const KINDS: [&'static str; 8] = [
        "warm", "wait", "copy", "exec", "scale", "pin", "purge", "notify",
    ];

    /// Its name.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Warm(_) => "warm",
            Self::Wait(..) => "wait",
            Self::Copy(_) => "copy",
            Self::Exec(_) => "exec",
            Self::Scale(..) => "scale",
            Self::Pin(_) => "pin",
            Self::Purge(_) => "purge",
            Self::Notify(_) => "notify",
        }
    }

    /// What a table says of this kind.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence.
    pub(super) fn read(kind: &str, value: &Value, rules: &Rules<'_>) -> Result<Self, String> {
        let table = value.as_object().ok_or("it must be a table, in braces")?;
        match kind {
            "warm" => warm(table.clone(), rules),
            "wait" => wait(table, rules),
            "copy" => copy(table, rules),
            "exec" => exec(table, rules),
            "scale" => scale(table, rules),
            "pin" => {
                let pinned: Pinned = asked(table)?;
                known(&pinned.dataset, rules)?;
                // A flow that goes on later is judged anew: a time that has passed by then is its step's trouble.
                pinned
                    .expires
                    .as_deref()
                    .map(|text| expiry(text, 0))
                    .transpose()?;
                Ok(Self::Pin(pinned))
            }
            "purge" => {
                let purged: Purged = asked(table)?;
                known(&purged.dataset, rules)?;
                Ok(Self::Purge(purged))
            }
            _ => {
                let NotifyAsked { url } = asked(table)?;
                allowed(&url, rules)?;
                Ok(Self::Notify(url))
            }
        }
    }
}

fn asked<T: DeserializeOwned>(table: &Map<String, Value>) -> Result<T, String> {
    serde_json::from_value(Value::Object(table.clone())).map_err(|error| error.to_string())
}

fn known(dataset: &str, rules: &Rules<'_>) -> Result<(), String> {
    match (rules.knows)(dataset) {
        true => Ok(()),
        false => Err(format!("there is no dataset {dataset:?}")),
    }
}

fn text(table: &mut Map<String, Value>, key: &str) -> Result<Option<String>, String> {
    match table.remove(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("`{key}` must be a string in quotes")),
    }
}

/// Its dataset, prefix and manifest; the rest is what the body of a request for a job says.
fn warm(mut table: Map<String, Value>, rules: &Rules<'_>) -> Result<Action, String> {
    let dataset = text(&mut table, "dataset")?.ok_or("it names no `dataset`")?;
    known(&dataset, rules)?;
    let prefix = text(&mut table, "prefix")?.unwrap_or_default();
    let manifest = text(&mut table, "manifest")?;
    let warmed = Warmed {
        dataset,
        prefix,
        body: table,
        manifest,
    };
    if warmed.manifest.is_some() && warmed.body.contains_key("keys") {
        return Err("a `manifest` names the keys: remove `keys`".into());
    }
    // Whatever keys a manifest names, the rest is judged now.
    warmed.order(vec!["key".into()], rules.has_nvme)?;
    Ok(Action::Warm(Box::new(warmed)))
}

fn wait(table: &Map<String, Value>, rules: &Rules<'_>) -> Result<Action, String> {
    let asked: WaitAsked = asked(table)?;
    let every = asked.every.as_ref().map(time).transpose();
    let every = every
        .map_err(|clause| format!("`every` {clause}"))?
        .unwrap_or(EVERY);
    let wait = match asked {
        WaitAsked {
            dataset: Some(dataset),
            prefix,
            tier,
            resident,
            url: None,
            status: None,
            members: None,
            ..
        } => {
            known(&dataset, rules)?;
            let percent = resident.unwrap_or(100.0);
            if !(percent > 0.0 && percent <= 100.0) {
                return Err("`resident` must be a percentage above 0 and up to 100".into());
            }
            Wait::Resident {
                dataset,
                prefix,
                tier: tier.unwrap_or_default(),
                percent,
            }
        }
        WaitAsked {
            dataset: None,
            url: Some(url),
            status,
            members: None,
            resident: None,
            ..
        } => {
            allowed(&url, rules)?;
            let status = status.unwrap_or(200);
            Wait::Url { url, status }
        }
        WaitAsked {
            dataset: None,
            url: None,
            status: None,
            resident: None,
            members: Some(members),
            ..
        } => Wait::Members(members),
        _ => {
            return Err(
                "it waits for one thing: `dataset` and `resident`, `url` and `status`, or `members`".into(),
            );
        }
    };
    Ok(Action::Wait(wait, every))
}

fn copy(table: &Map<String, Value>, rules: &Rules<'_>) -> Result<Action, String> {
    let asked: CopyAsked = asked(table)?;
    let place = |text: &str| {
        let place = Place::parse(text).ok_or("`from` and `to` are DATASET or DATASET/PREFIX")?;
        known(&place.dataset, rules)?;
        Ok::<_, String>(place)
    };
    let (from, to) = (place(&asked.from)?, place(&asked.to)?);
    if !(rules.writes)(&to.dataset) {
        return Err(format!(
            "the dataset {:?} can't be written to: set writable = true in its [[datasets]]",
            to.dataset
        ));
    }
    if let Some(glob) = &asked.glob {
        Glob::parse(glob)?;
    }
    let rate = asked.rate.as_ref().map(order::rate).transpose()?;
    let order = CopyOrder {
        from,
        to,
        glob: asked.glob,
        rate,
        dry: false,
    };
    (rules.copies)(&order)?;
    Ok(Action::Copy(Box::new(order)))
}

fn exec(table: &Map<String, Value>, rules: &Rules<'_>) -> Result<Action, String> {
    let ExecAsked { command } = asked(table)?;
    let program = command.first().ok_or("its `command` is empty")?;
    if !rules
        .allowed
        .commands
        .iter()
        .any(|allowed| allowed == Path::new(program))
    {
        return Err(format!(
            "{program:?} is not among `commands` in [flows] of the settings, and flows run nothing else"
        ));
    }
    let long = |argument: &String| argument.len() > LONGEST_ARGUMENT || argument.contains('\0');
    if command.len() > MOST_ARGUMENTS || command.iter().any(long) {
        return Err(format!(
            "its `command` must have {MOST_ARGUMENTS} arguments at most, of {LONGEST_ARGUMENT} bytes each, without \
             a zero byte"
        ));
    }
    Ok(Action::Exec(command))
}

fn scale(table: &Map<String, Value>, rules: &Rules<'_>) -> Result<Action, String> {
    let asked: ScaleAsked = asked(table)?;
    let scale = match (asked.webhook, asked.resource) {
        (Some(url), None) => {
            allowed(&url, rules)?;
            Scale::Webhook(url)
        }
        (None, Some(resource)) => {
            let kubernetes = rules.allowed.kubernetes.as_ref();
            let kubernetes = kubernetes.ok_or(
                "a `resource` is scaled by Kubernetes, and the settings name none: set `kubernetes` in [flows]",
            )?;
            let parts: Vec<&str> = resource.split('/').collect();
            let plain = |part: &&str| {
                let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
                !part.is_empty() && part.bytes().all(letter) && !part.starts_with('.')
            };
            if parts.len() != 6 || parts[2] != "namespaces" || !parts.iter().all(plain) {
                return Err(
                    "`resource` must be GROUP/VERSION/namespaces/NAMESPACE/KIND/NAME, such as \
                     apps/v1/namespaces/models/statefulsets/forebay"
                        .into(),
                );
            }
            let url = format!("{}/apis/{resource}/scale", kubernetes.api);
            allowed(&url, rules)?;
            Scale::Kubernetes(url)
        }
        _ => {
            return Err(
                "it scales one thing: `webhook`, a URL, or `resource`, one of Kubernetes".into(),
            );
        }
    };
    Ok(Action::Scale(scale, asked.replicas))
}
