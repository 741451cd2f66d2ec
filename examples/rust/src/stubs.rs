//! What `make stubs` wrote, in modules that are nested as the packages are.
#![allow(clippy::all, dead_code)]

pub mod google {
    pub mod api {
        include!("../../../build/stubs/rust/google/api/google.api.rs");
    }
}

pub mod taskgate {
    pub mod v1 {
        include!("../../../build/stubs/rust/taskgate/v1/taskgate.v1.rs");
    }
}
