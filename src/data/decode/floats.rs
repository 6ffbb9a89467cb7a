//! Integers as floats: divided by the greatest value of their type.

pub fn of_bytes(values: &[u8]) -> Vec<f32> {
    values.iter().map(|value| f32::from(*value) / f32::from(u8::MAX)).collect()
}

pub fn of_words(values: impl IntoIterator<Item = u16>) -> Vec<f32> {
    values.into_iter().map(|value| f32::from(value) / f32::from(u16::MAX)).collect()
}
