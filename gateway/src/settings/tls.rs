//! `[tls]`: the certificate, its key, and whose client certificates are asked for.

use super::TlsSettings;
use super::report::{Place, Placed, Report};
use super::section::{Section, TLS};
use super::value;
use crate::certificate::{Contents, Part};

/// Reads the section and the files that it names. What is wrong with a file is a mistake on the
/// line that names it.
pub(super) fn read(top: &Section<'_>, report: &mut Report) -> Option<TlsSettings> {
    let section = top.section("tls", &TLS, report)?;
    let cert = section.read(Part::Cert.key(), report, value::file);
    let key = section.read(Part::Key.key(), report, value::file);
    let client_ca = section.read(Part::ClientCa.key(), report, value::file);
    for (part, how) in [(Part::Cert, "tls.crt"), (Part::Key, "tls.key")] {
        let name = part.key();
        if section.raw(name, report).is_none() {
            let sentence = format!("[tls] has no `{name}`: add {name} = \"{how}\"");
            report.missing(section.place(), sentence);
        }
    }
    let asked_for_ca = section.raw("client_ca", report).is_some();
    let (cert, key) = (cert?, key?);
    if asked_for_ca && client_ca.is_none() {
        return None;
    }
    let places = [
        Some(cert.place.clone()),
        Some(key.place.clone()),
        client_ca.as_ref().map(|path| path.place.clone()),
    ];
    let settings = TlsSettings {
        cert: cert.value,
        key: key.value,
        client_ca: client_ca.map(|Placed { value, .. }| value),
    };
    if let Err(mistake) = Contents::read(&settings).and_then(|contents| contents.identity()) {
        let [cert, key, client_ca] = places;
        let place = match mistake.part {
            Part::Cert => cert,
            Part::Key => key,
            Part::ClientCa => client_ca,
        };
        report.add(&place.unwrap_or(Place::File), mistake.to_string());
    }
    Some(settings)
}
