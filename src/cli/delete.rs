//! `headwater delete`.

use bytes::Bytes;
use clap::Args;
use http::Method;

use super::client::{Request, Server};
use super::failure::{Failure, Kind};

/// Delete a stream, with all that it holds
#[derive(Debug, Args)]
pub(super) struct Delete {
    /// The stream: its name below the URL of the server, or its whole URL
    stream: String,

    #[command(flatten)]
    server: Server,
}

impl Delete {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let url = self.server.stream(&self.stream)?;
        let client = self.server.connect()?;
        let request = Request::new(Method::DELETE, &url);
        let mut patience = self.server.patience();
        match client
            .send_patiently(&request, &Bytes::new(), &mut patience)
            .await
        {
            Ok(_) => Ok(()),
            // An attempt before, whose answer was lost, has deleted it.
            Err(failure) if failure.kind == Kind::NotFound && patience.is_tried() => Ok(()),
            Err(failure) => Err(failure),
        }
    }
}
