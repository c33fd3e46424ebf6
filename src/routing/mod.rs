//! Which cluster owns a key.
