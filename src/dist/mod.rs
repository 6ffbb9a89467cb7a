//! Processes that train one model together.

/// This process's number among all, from 0.
pub fn rank() -> usize {
    0
}

/// How many processes train together; 1 where the run was started alone.
pub fn world_size() -> usize {
    1
}
