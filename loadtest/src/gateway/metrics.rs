//! Reads Prometheus text, as far as the checks need it.

/// One scrape.
#[derive(Clone, Debug)]
pub struct Metrics(String);

impl Metrics {
    /// Takes the text of a scrape.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text as it came.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The sum of all samples of this name that carry these labels, whatever others they have; `None` if there is
    /// none, which is not the same as 0.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let samples = self.0.lines().filter_map(|line| sample(line, name, labels));
        samples.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
    }
}

fn sample(line: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let rest = line.strip_prefix(name)?;
    let (carried, value) = match rest.strip_prefix('{') {
        Some(rest) => rest.rsplit_once('}')?,
        None => ("", rest.strip_prefix(' ')?),
    };
    let carries = |label: &(&str, &str)| {
        let pair = format!("{}=\"{}\"", label.0, label.1);
        carried == pair
            || carried.starts_with(&format!("{pair},"))
            || carried.ends_with(&format!(",{pair}"))
            || carried.contains(&format!(",{pair},"))
    };
    if !labels.iter().all(carries) {
        return None;
    }
    value.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_over_the_labels_not_asked_for() {
        let metrics = Metrics::new(
            "# HELP forebay_requests_total n\nforebay_requests_total{api=\"get\",status=\"200\"} 3\n\
             forebay_requests_total{api=\"get\",status=\"206\"} 4\nforebay_requests_total_other 9\nplain 1.5\n"
                .to_owned(),
        );
        assert_eq!(metrics.sum("forebay_requests_total", &[]), Some(7.0));
        assert_eq!(
            metrics.sum("forebay_requests_total", &[("status", "206")]),
            Some(4.0)
        );
        assert_eq!(
            metrics.sum("forebay_requests_total", &[("status", "20")]),
            None
        );
        assert_eq!(metrics.sum("plain", &[]), Some(1.5));
        assert_eq!(metrics.sum("missing", &[]), None);
    }
}
