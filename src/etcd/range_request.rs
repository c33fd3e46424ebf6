//! What a `RangeRequest` asks for that takes more than one of its fields.

use super::proto::etcdserverpb::RangeRequest;

impl RangeRequest {
    /// Whether it is about those keys alone that were created or changed within bounds.
    pub fn is_filtered(&self) -> bool {
        let bounds = [
            self.min_mod_revision,
            self.max_mod_revision,
            self.min_create_revision,
            self.max_create_revision,
        ];
        bounds.iter().any(|&bound| bound != 0)
    }
}
