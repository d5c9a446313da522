//! The families about TLS.

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

/// Handshakes, with every outcome from the start, and when the certificate ends.
pub(super) fn register(registry: &Registry) -> prometheus::Result<(IntCounterVec, IntGaugeVec)> {
    let handshakes = Opts::new(
        "tls_handshakes_total",
        "TLS handshakes: full, resumed, refused (by either side), closed (by the client), timeout",
    );
    let handshakes = IntCounterVec::new(handshakes, &["outcome"])?;
    for outcome in ["full", "resumed", "refused", "closed", "timeout"] {
        let _ = handshakes.with_label_values(&[outcome]);
    }
    let expires = Opts::new(
        "tls_certificate_expires_timestamp_seconds",
        "When the certificate that clients see ends, in Unix time",
    );
    let expires = IntGaugeVec::new(expires, &[])?;
    registry.register(Box::new(handshakes.clone()))?;
    registry.register(Box::new(expires.clone()))?;
    Ok((handshakes, expires))
}
