//! What the types cannot say about upstreams.
