//! The origin as one start of a gateway reaches it.

use std::sync::Arc;

use async_trait::async_trait;
use forebay_storage::origin::{HttpRequest, HttpResponse, HttpService};
use object_store::client::{HttpError, HttpErrorKind};

use super::SimOrigin;
use crate::reader::door::Gone;

/// The origin, until that start is killed.
#[derive(Debug)]
pub(crate) struct OwnOrigin {
    pub(crate) origin: Arc<SimOrigin>,
    pub(crate) gone: Arc<Gone>,
}

#[async_trait]
impl HttpService for OwnOrigin {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let refused = || {
            let error = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
            HttpError::new(HttpErrorKind::Connect, error)
        };
        if self.gone.is_set() {
            return Err(refused());
        }
        tokio::select! {
            biased;
            () = self.gone.wait() => Err(refused()),
            answer = self.origin.call(request) => answer,
        }
    }
}
