//! `door`: what it costs to know who asks.

mod signed;

use super::Options;
use crate::report::Report;

pub(super) async fn run(options: &Options) -> anyhow::Result<Report> {
    let mut report = Report::new("door");
    signed::measure(options, &mut report).await?;
    Ok(report)
}
