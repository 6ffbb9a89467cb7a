//! Draws and checks that several transforms share.

use crate::error::{Result, ensure};
use crate::random::uniform;
use rand::RngCore;

/// How often one transform may do something to one image, at most: more is a slip of the keyboard that takes hours.
pub(super) const MOST_REPEATED: f64 = 1000.0;

/// A number that must lie in a range.
pub(super) fn within(of: &str, option: &str, value: f64, low: f64, high: f64) -> Result<()> {
    let expected = match high.is_finite() {
        true => format!("a number from {low} to {high}"),
        false => format!("a number of at least {low}"),
    };
    ensure!(
        value.is_finite() && (low..=high).contains(&value),
        "option `{option}` of {of}: expected {expected}, found {value}"
    );
    Ok(())
}

/// Two options of which the first must not be greater than the second.
pub(super) fn in_order(of: &str, options: [&str; 2], [low, high]: [f64; 2]) -> Result<()> {
    let [least, greatest] = options;
    ensure!(low <= high, "options of {of}: expected `{least}` to be at most `{greatest}`, found {low} and {high}");
    Ok(())
}

/// A range [low, high] with low ≤ high, from `least` on.
pub(super) fn range_within(of: &str, option: &str, [low, high]: [f64; 2], least: f64, most: f64) -> Result<()> {
    within(of, option, low, least, most)?;
    within(of, option, high, least, most)?;
    ensure!(low <= high, "option `{option}` of {of}: expected [least, greatest], found [{low}, {high}]");
    Ok(())
}

/// True with probability `p`; 1 always and 0 never.
pub(super) fn happens(p: f64, rng: &mut impl RngCore) -> bool {
    uniform(rng, 0.0, 1.0) < p
}
