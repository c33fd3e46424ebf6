//! Intervals of keys.
