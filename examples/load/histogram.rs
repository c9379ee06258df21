//! Latencies in buckets whose width is at most 1/64 of their value: quantiles without keeping every sample.

/// Counts of values, in microseconds.
pub struct Histogram {
    buckets: Vec<u64>,
    total: u64,
}

/// Values below this have a bucket each; every doubling above it has half as many.
const EXACT: u64 = 128;
const HALF: u64 = EXACT / 2;
/// The largest value with a bucket of its own; what is above it counts as it.
const LARGEST: u64 = (1 << 40) - 1;

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl Histogram {
    pub fn new() -> Self {
        Self { buckets: vec![0; bucket(LARGEST) + 1], total: 0 }
    }

    pub fn record(&mut self, micros: u64) {
        if let Some(count) = self.buckets.get_mut(bucket(micros.min(LARGEST))) {
            *count += 1;
            self.total += 1;
        }
    }

    /// How many values there are.
    pub const fn count(&self) -> u64 {
        self.total
    }

    /// The value that `share` (0 to 1) of the samples do not exceed, rounded up to its bucket's end; 0 without samples.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)] // counts
    pub fn quantile(&self, share: f64) -> u64 {
        let wanted = ((self.total as f64 * share).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (at, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return last_of(at as u64);
            }
        }
        0
    }
}

#[allow(clippy::cast_possible_truncation)] // a few thousand buckets
fn bucket(value: u64) -> usize {
    if value < EXACT {
        return value as usize;
    }
    // The leading bit and the six after it.
    let doublings = u64::from(value.ilog2() - HALF.ilog2());
    (doublings * HALF + (value >> doublings)) as usize
}

/// The largest value of a bucket.
fn last_of(bucket: u64) -> u64 {
    if bucket < EXACT {
        return bucket;
    }
    let doublings = bucket / HALF - 1;
    ((bucket - doublings * HALF + 1) << doublings) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_one_bucket_that_is_narrow() {
        for value in (0..100_000).chain((17..40).flat_map(|bits| [(1 << bits) - 1, 1 << bits, (1 << bits) + 12_345])) {
            let end = last_of(bucket(value) as u64);
            assert!(end >= value && end - value <= value / 64, "{value} is in a bucket that ends at {end}");
        }
        for at in 0..2_000 {
            assert_eq!(bucket(last_of(at) + 1) as u64, at + 1);
        }
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_samples() {
        let mut histogram = Histogram::new();
        assert_eq!(histogram.quantile(0.5), 0);
        for value in 1..=100 {
            histogram.record(value);
        }
        assert_eq!([0.0, 0.5, 0.99, 0.999, 1.0].map(|share| histogram.quantile(share)), [1, 50, 99, 100, 100]);
        histogram.record(u64::MAX);
        assert_eq!(histogram.quantile(1.0), LARGEST);
    }
}
