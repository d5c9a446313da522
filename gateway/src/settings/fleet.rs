//! `[fleet]`: who this gateway is among others, and where the others are.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use forebay_ring::gossip::Seed;
use forebay_ring::seal::MIN_KEY_BYTES;
use forebay_ring::{MAX_NAME_BYTES, MAX_WEIGHT};
use toml::de::DeValue;
use xxhash_rust::xxh3::Xxh3;

use super::draft::Surroundings;
use super::report::{Placed, Report};
use super::section::{FLEET, Section};
use super::{FleetSettings, Secret, Settings, dataset, machine, value};

/// With `stop_after` it is less than the 30 s that orchestrators give a process to stop, where nobody tells them otherwise.
const DRAIN_AFTER: Duration = Duration::from_secs(15);

/// What `[fleet]` says, if all of it is right; `None` also where there is none.
pub(super) fn read(
    top: &Section<'_>,
    around: &Surroundings<'_>,
    report: &mut Report,
) -> Option<FleetSettings> {
    let section = top.section("fleet", &FLEET, report)?;
    for (key, how) in [
        ("name", "\"weights\""),
        ("key", "{ file = \"/run/secrets/fleet\" }"),
        ("listen", "\"10.0.0.7:7071\""),
    ] {
        if section.raw(key, report).is_none() {
            report.missing(
                section.place(),
                format!("the fleet has no `{key}`: add {key} = {how}"),
            );
        }
    }
    let name = section.read("name", report, short);
    let member = section.read("member", report, short);
    let zone = section.read("zone", report, zone_value);
    let edge = section.read("role", report, role).map(|role| role.value);
    let weight = section.read("weight", report, weight_value);
    if let (Some(true), Some(weight)) = (edge, &weight) {
        let sentence =
            "`weight` says nothing beside `role = \"edge\"`, which owns nothing: remove one";
        report.add(&weight.place, sentence);
    }
    for key in ["key", "key_next"] {
        if let Some(Placed { value, .. }) = section.raw(key, report) {
            report.reads(value);
        }
    }
    let key = section.read("key", report, |value| secret(value, around));
    let key_next = section.read("key_next", report, |value| secret(value, around));
    if let (Some(key), Some(next)) = (&key, &key_next)
        && key.value == next.value
    {
        let sentence = "`key_next` is the `key` itself: write another, or remove it";
        report.add(&next.place, sentence);
    }
    let listen = section.read("listen", report, value::address);
    let advertise = section.read("advertise", report, |value| advertised(value, around));
    let client_url = section.read("client_url", report, url);
    let tls = section.read("tls", report, value::boolean);
    let drain_after = section.read("drain_after", report, value::time);
    let seeds = seeds(&section, report);
    let listen = listen?;
    let advertise = reached_at(&listen, advertise, report)?;
    Some(FleetSettings {
        name: name?.value,
        member: member.map(|member| member.value),
        edge: edge.unwrap_or(false),
        weight: weight.map_or(1, |weight| weight.value),
        key: key?.value,
        key_next: key_next.map(|key| key.value),
        listen: listen.value,
        advertise,
        client_url: client_url.map(|url| url.value),
        seeds,
        tls: tls.is_some_and(|tls| tls.value),
        drain_after: drain_after.map_or(DRAIN_AFTER, |time| time.value),
        zone: zone.map_or_else(String::new, |zone| zone.value),
    })
}

/// Where others reach the fleet's port.
fn reached_at(
    listen: &Placed<SocketAddr>,
    advertise: Option<Placed<Advertised>>,
    report: &mut Report,
) -> Option<SocketAddr> {
    match advertise {
        Some(advertise) => Some(at(advertise.value, listen.value.port())),
        None if !listen.value.ip().is_unspecified() => Some(listen.value),
        None => match machine::address(listen.value.is_ipv6()) {
            Some(ip) => Some(SocketAddr::new(ip, listen.value.port())),
            None => {
                let sentence = "`listen` names no address, and this machine has none that others reach: \
                     write `advertise`";
                report.add(&listen.place, sentence);
                None
            }
        },
    }
}

impl Settings {
    /// What all members must have alike, in a number: the block size, which a reload does not change and is told here,
    /// and the datasets by name and origin.
    pub fn digest(&self, block_size: u32) -> u64 {
        let mut hash = Xxh3::new();
        hash.update(&block_size.to_le_bytes());
        let datasets = self.datasets.iter();
        let datasets: BTreeMap<&str, String> = datasets
            .map(|dataset| (dataset.name.as_str(), dataset.origin.to_string()))
            .collect();
        for (name, origin) in datasets {
            for text in [name, &origin] {
                hash.update(&(text.len() as u64).to_le_bytes());
                hash.update(text.as_bytes());
            }
        }
        hash.digest()
    }
}

fn short(value: &DeValue<'_>) -> Result<String, String> {
    match value::string(value)? {
        text if text.is_empty() => Err("is empty: write a name".into()),
        text if text.len() > MAX_NAME_BYTES => Err(format!(
            "has {} bytes, and {MAX_NAME_BYTES} are the most: choose a shorter one",
            text.len()
        )),
        text if text.chars().any(char::is_control) => {
            Err("holds a control character: write a plain name".into())
        }
        text => Ok(text),
    }
}

fn zone_value(value: &DeValue<'_>) -> Result<String, String> {
    match value::string(value)? {
        text if text.is_empty() => Ok(text),
        _ => short(value),
    }
}

fn role(value: &DeValue<'_>) -> Result<bool, String> {
    match value::string(value)?.as_str() {
        "member" => Ok(false),
        "edge" => Ok(true),
        _ => Err("must be \"member\" or \"edge\"".into()),
    }
}

fn weight_value(value: &DeValue<'_>) -> Result<u16, String> {
    let weight = value::count(value)?;
    match u16::try_from(weight) {
        Ok(weight) if weight <= MAX_WEIGHT => Ok(weight),
        _ => Err(format!("must be a whole number from 1 to {MAX_WEIGHT}")),
    }
}

fn secret(value: &DeValue<'_>, around: &Surroundings<'_>) -> Result<Secret, String> {
    match dataset::option_value(value, around)? {
        text if text.len() < MIN_KEY_BYTES => Err(format!(
            "has {} bytes, and {MIN_KEY_BYTES} are the fewest that keep anybody out: write a longer secret, the \
             same on all members",
            text.len()
        )),
        text => Ok(Secret::new(text)),
    }
}

/// An address whose port may be left out.
#[derive(Clone, Copy)]
enum Advertised {
    Whole(SocketAddr),
    Ip(IpAddr),
}

fn at(advertised: Advertised, port: u16) -> SocketAddr {
    match advertised {
        Advertised::Whole(address) => address,
        Advertised::Ip(ip) => SocketAddr::new(ip, port),
    }
}

fn advertised(value: &DeValue<'_>, around: &Surroundings<'_>) -> Result<Advertised, String> {
    let text = dataset::option_value(value, around)?;
    let whole = text.parse().map(Advertised::Whole);
    let ip = || text.parse().map(Advertised::Ip);
    let found: Result<Advertised, std::net::AddrParseError> = whole.or_else(|_| ip());
    match found {
        Ok(Advertised::Whole(address)) if address.ip().is_unspecified() => {
            Err("names no address that others reach: write one of this machine's".into())
        }
        Ok(Advertised::Ip(ip)) if ip.is_unspecified() => {
            Err("names no address that others reach: write one of this machine's".into())
        }
        Ok(advertised) => Ok(advertised),
        Err(_) => Err("must be an IP address, with or without a port".into()),
    }
}

fn url(value: &DeValue<'_>) -> Result<String, String> {
    let text = value::string(value)?;
    let text = text.trim_end_matches('/');
    let uri: Option<http::Uri> = text.parse().ok();
    let good = uri.is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.authority().is_some_and(|at| !at.as_str().contains('@'))
            && matches!(uri.path(), "" | "/")
            && uri.query().is_none()
    });
    match good {
        true => Ok(text.to_owned()),
        false => Err("must be http://HOST:PORT or https://HOST:PORT".into()),
    }
}

fn seeds(section: &Section<'_>, report: &mut Report) -> Vec<Seed> {
    let Some(Placed { place, value }) = section.raw("seeds", report) else {
        return Vec::new();
    };
    let DeValue::Array(items) = value else {
        let kind = value::kind(value);
        report.add(
            &place,
            format!("`seeds` must be a list, such as [\"10.0.0.7:7071\"], not {kind}"),
        );
        return Vec::new();
    };
    let mut seeds = Vec::new();
    for item in items {
        let place = report.place(&item.span());
        let seed = value::string(item.get_ref()).and_then(|text| {
            text.parse::<Seed>().map_err(|_| {
                "must be HOST:PORT, or dns:NAME:PORT for all addresses of a name".to_owned()
            })
        });
        match seed {
            Ok(seed) => seeds.push(seed),
            Err(clause) => report.add(&place, format!("a seed {clause}")),
        }
    }
    seeds
}
