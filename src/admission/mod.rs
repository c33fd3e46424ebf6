//! What a call is, and so how it may be treated.
