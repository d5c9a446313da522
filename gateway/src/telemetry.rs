//! Logs: to standard error, as text for people or JSON for machines.

use std::io::IsTerminal;

use prometheus::IntCounter;
use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::plain::Lines;
use crate::settings::{LogFormat, LogSettings};

/// Begins to log. Once a process; a second call changes nothing.
pub fn begin(settings: &LogSettings) {
    let level = LevelFilter::from_level(settings.level);
    // Libraries speak up only where something is wrong, but at debug all may.
    let others = if settings.level > Level::INFO {
        level
    } else {
        LevelFilter::WARN.min(level)
    };
    let quiet = if settings.level > Level::INFO {
        level
    } else {
        LevelFilter::OFF
    };
    let targets = Targets::new()
        .with_default(others)
        .with_target("forebay", level)
        .with_target("forebay_gateway", level)
        .with_target("forebay_storage", level)
        .with_target("access", level)
        // They warn of what any client may send, as often as it is sent.
        .with_target("h2", quiet)
        .with_target("rustls", quiet)
        // What it meets on a disk is counted, judged and told once by the NVMe tier.
        .with_target("foyer_storage", quiet);
    let registry = tracing_subscriber::registry().with(targets);
    let (text, colours) = (
        settings.format == LogFormat::Text,
        std::io::stderr().is_terminal(),
    );
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(move || Lines::new(std::io::stderr(), text && colours));
    // A second subscriber is refused; the first goes on.
    let _ = match settings.format {
        LogFormat::Text => registry.with(layer.with_ansi(colours)).try_init(),
        LogFormat::Json => registry
            .with(layer.json().flatten_event(true).with_current_span(false))
            .try_init(),
    };
}

/// Counts every panic from now on and logs it like anything else, where Rust's own hook would write lines that no
/// reader of JSON understands.
pub fn tell_panics(panics: IntCounter) {
    std::panic::set_hook(Box::new(move |panic| {
        panics.inc();
        let place = panic.location().map(tracing::field::display);
        let said = panic.payload_as_str().unwrap_or("no text");
        tracing::error!(place, said, "panicked: this is a bug, please report it");
    }));
}
