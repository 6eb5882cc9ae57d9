//! Medians and quartiles.

/// A distribution by its quartiles.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Quartiles {
    pub first: f64,
    pub median: f64,
    pub third: f64,
}

impl Quartiles {
    /// Without any value, every quartile is NaN.
    pub(super) fn new(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |part: f64| {
            let place = part * values.len().saturating_sub(1) as f64;
            let below = values.get(place.floor() as usize);
            let above = values.get(place.ceil() as usize);
            match (below, above) {
                (Some(below), Some(above)) => below + (above - below) * place.fract(),
                _ => f64::NAN,
            }
        };
        Self {
            first: at(0.25),
            median: at(0.5),
            third: at(0.75),
        }
    }
}

pub(super) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    Quartiles::new(values).median
}

/// The median of a few rounds' results, with the least and the greatest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub least: f64,
    pub median: f64,
    pub most: f64,
}

impl Spread {
    pub(super) fn new(values: &[f64]) -> Self {
        Self {
            least: values.iter().copied().fold(f64::NAN, f64::min),
            median: median(values.iter().copied()),
            most: values.iter().copied().fold(f64::NAN, f64::max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_lie_between_values() {
        let quartiles = Quartiles::new([4.0, 1.0, 3.0, 2.0]);
        assert_eq!(
            quartiles,
            Quartiles {
                first: 1.75,
                median: 2.5,
                third: 3.25
            }
        );
        assert!(median([]).is_nan());
    }

    #[test]
    fn a_spread_ignores_order() {
        let spread = Spread::new(&[3.0, 1.0, 2.0]);
        assert_eq!((spread.least, spread.median, spread.most), (1.0, 2.0, 3.0));
    }
}
