//! What several modules start from: a gateway over nginx, which has strong tags, ranges and dates.

use std::time::Duration;

use forebay_tests::cluster::{Dataset, Gateway, SECRET, Setup};
use forebay_tests::http::Answer;
use forebay_tests::oracle::{self, BLOCK};
use forebay_tests::scratch::Scratch;
use forebay_tests::servers::nginx::{Mood, Nginx};
use forebay_tests::until;

/// The object of 3 blocks and 17 bytes.
pub(crate) const OBJECT: &str = "/models/a.bin";

/// The empty object.
pub(crate) const EMPTY: &str = "/models/empty.bin";

/// The size of [`OBJECT`].
pub(crate) const SIZE: usize = 3 * BLOCK + 17;

/// A gateway whose dataset `models` is nginx's directory.
pub(crate) struct Stage {
    pub(crate) gateway: Gateway,
    pub(crate) origin: Nginx,
    /// The bytes of [`OBJECT`].
    pub(crate) bytes: Vec<u8>,
}

/// Starts both, with [`OBJECT`] and [`EMPTY`] in place.
pub(crate) fn stage() -> Stage {
    let origin = Nginx::start();
    let bytes = oracle::bytes("a.bin", 1, SIZE);
    origin.put("a.bin", &bytes);
    origin.put("empty.bin", b"");
    let models = Dataset::new("models", origin.url(Mood::Plain)).line("fresh_for = \"10m\"");
    Stage {
        gateway: Setup::of([models]).start(),
        origin,
        bytes,
    }
}

/// A directory with `a.bin` in it, as an origin.
pub(crate) fn directory() -> (Scratch, String) {
    let files = Scratch::new("files");
    files.write("a.bin", oracle::bytes("a.bin", 1, 5000));
    let path = files
        .path()
        .to_str()
        .expect("a temporary path is UTF-8")
        .to_owned();
    (files, path)
}

/// Waits until so many bytes are cached: a fill goes on after the reader that started it has what it wanted.
pub(crate) fn cached(gateway: &Gateway, bytes: usize) {
    until(Duration::from_secs(5), "the fill to end", || {
        let cached = gateway.metric("forebay_cache_bytes", &[("tier", "memory")]);
        (cached >= bytes as f64).then_some(())
    });
}

/// Rewrites the gateway's file so that it has these datasets, as an editor does: beside it, then over it.
pub(crate) fn rewrite(gateway: &Gateway, setup: &Setup) {
    let config = gateway.config();
    let place = config
        .parent()
        .expect("the file lies in a folder")
        .to_owned();
    let beside = place.join("new.toml");
    std::fs::write(&beside, setup.text(&place)).expect("the folder can be written");
    std::fs::rename(beside, config).expect("the file can be replaced");
}

/// Waits until GET of `target` is answered with `status`, as after [`rewrite`].
pub(crate) fn appears(gateway: &Gateway, target: &str, status: u16) {
    until(
        Duration::from_secs(10),
        &format!("{status} for {target}"),
        || (gateway.get(target).status == status).then_some(()),
    );
}

/// An error as S3 clients read it, with a sentence and a request id that the log knows.
pub(crate) fn assert_sentence(gateway: &Gateway, answer: &Answer, statuses: &[u16]) {
    let text = answer.text();
    assert!(
        statuses.contains(&answer.status),
        "{} {:?} {text}",
        answer.status,
        answer.headers
    );
    assert_eq!(answer.need("content-type"), "application/xml", "{text}");
    let message = answer.xml("Message").unwrap_or_default();
    assert!(message.split(' ').count() >= 3, "not a sentence: {text}");
    assert!(!text.contains(SECRET), "a secret in an answer: {text}");
    let id = answer.xml("RequestId").unwrap_or_default();
    assert!(!id.is_empty(), "no request id: {text}");
    until(Duration::from_secs(2), "the request id in the log", || {
        gateway.process().stderr().contains(&id).then_some(())
    });
}
