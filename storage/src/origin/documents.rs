//! Small documents in an object store, each written only if nobody else wrote it meanwhile: what a fleet agrees on.
//!
//! A store that can't do that is found out by [`Documents::probe`]: with one that takes every write, two gateways
//! would both believe that something is theirs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::client::HttpClient;
use object_store::path::Path;
use object_store::{
    Error, GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, UpdateVersion,
};

use super::build;
use super::connect::{Connector, Exchange};
use super::url::OriginUrl;
use crate::stats::DatasetStats;

/// Requests at once.
const CONNECTIONS: usize = 8;

/// How long one may take: documents are small.
const LIMIT: Duration = Duration::from_secs(10);

/// What is said of a store that can't do it.
const HOW: &str = "[state] needs an object store that writes a document only if it is not there yet (If-None-Match) or \
                   unchanged (If-Match), as S3, Google Cloud Storage and Azure do: name one, or leave [state] out to \
                   keep the state of each gateway in its data_dir";

/// Why a document was not read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Somebody else wrote it meanwhile, or it is there already: read it again.
    #[error("somebody else changed it meanwhile")]
    Changed,
    /// The store did not answer, or not as it should. It may later.
    #[error("the state store {0}")]
    Away(Arc<str>),
    /// The store takes writes whatever is there.
    #[error("the state store {0}: {HOW}")]
    Unconditional(&'static str),
}

/// What a document was like when it was read or written: for the next write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag(UpdateVersion);

impl Tag {
    /// Whether both are of the same content. Not every answer tells all of a tag.
    pub fn is(&self, other: &Self) -> bool {
        self.0.e_tag.is_some() && self.0.e_tag == other.0.e_tag
    }
}

/// The documents below one address.
#[derive(Debug)]
pub struct Documents {
    store: Arc<dyn ObjectStore>,
    prefix: String,
}

impl Documents {
    /// Whether a store of this kind can do it at all.
    ///
    /// # Errors
    /// A sentence that says that it can't.
    pub fn judge(url: &OriginUrl) -> Result<(), String> {
        match url {
            OriginUrl::Directory { .. } | OriginUrl::Http { .. } => {
                Err(format!("{url} is no such store: {HOW}"))
            }
            _ => Ok(()),
        }
    }

    /// Those below `url`. Nothing is asked yet.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the address or an option, or that such a store can't do it.
    pub fn open(
        url: &OriginUrl,
        options: &BTreeMap<String, String>,
        transport: HttpClient,
    ) -> Result<Self, String> {
        Self::judge(url)?;
        let stats = Arc::new(DatasetStats::default());
        let connector = Connector::new(url.to_string(), transport, stats, CONNECTIONS);
        let remote = build::remote(url, options, &connector.telling(&Exchange::default()))?;
        Ok(Self::over(remote.store, remote.prefix))
    }

    /// Those of a store whose names begin with `prefix`, which is empty or ends in a slash.
    pub fn over(store: Arc<dyn ObjectStore>, prefix: String) -> Self {
        Self { store, prefix }
    }

    /// Whether the store does what it has to, tried with a document of this name that nobody else uses.
    ///
    /// # Errors
    /// [`DocumentError::Unconditional`] if it does not.
    pub async fn probe(&self, name: &str) -> Result<(), DocumentError> {
        let first = self.create(name, Bytes::from_static(b"1")).await?;
        let probed = self.probe_further(name, &first).await;
        // What stays of it is one small object.
        let _ = self.remove(name).await;
        probed
    }

    async fn probe_further(&self, name: &str, first: &Tag) -> Result<(), DocumentError> {
        match self.create(name, Bytes::from_static(b"2")).await {
            Err(DocumentError::Changed) => {}
            Err(error) => return Err(error),
            Ok(_) => return Err(DocumentError::Unconditional("makes what is there already")),
        }
        let second = self
            .replace(name, Bytes::from_static(b"3"), first)
            .await
            .map_err(|error| match error {
                DocumentError::Changed => {
                    DocumentError::Unconditional("does not take the ETag that it gave")
                }
                error => error,
            })?;
        match self.replace(name, Bytes::from_static(b"4"), first).await {
            Err(DocumentError::Changed) if second != *first => Ok(()),
            Err(DocumentError::Changed) | Ok(_) => {
                Err(DocumentError::Unconditional("replaces what has changed"))
            }
            Err(error) => Err(error),
        }
    }

    /// The names of all documents that begin with `prefix`, and what they are like.
    ///
    /// # Errors
    /// If the store does not answer.
    pub async fn list(&self, prefix: &str) -> Result<Vec<(String, Tag)>, DocumentError> {
        let below = self.path(prefix)?;
        let listed = self.store.list(Some(&below));
        let listed = within(listed.try_collect::<Vec<_>>()).await?;
        let named = listed.into_iter().filter_map(|object| {
            let name = object.location.as_ref().strip_prefix(&*self.prefix)?;
            let tag = Tag(UpdateVersion {
                e_tag: object.e_tag,
                version: object.version,
            });
            Some((name.to_owned(), tag))
        });
        Ok(named.collect())
    }

    /// A document; `None`: there is none.
    ///
    /// # Errors
    /// If the store does not answer.
    pub async fn get(&self, name: &str) -> Result<Option<(Bytes, Tag)>, DocumentError> {
        let path = self.path(name)?;
        let got = async {
            let got = self.store.get_opts(&path, GetOptions::default()).await?;
            let tag = Tag(UpdateVersion {
                e_tag: got.meta.e_tag.clone(),
                version: got.meta.version.clone(),
            });
            Ok((got.bytes().await?, tag))
        };
        match tokio::time::timeout(LIMIT, got).await {
            Ok(Err(Error::NotFound { .. })) => Ok(None),
            Ok(Err(error)) => Err(of(&error)),
            Ok(Ok(got)) => Ok(Some(got)),
            Err(_) => Err(late()),
        }
    }

    /// Makes a document that is not there yet.
    ///
    /// # Errors
    /// [`DocumentError::Changed`] if it is.
    pub async fn create(&self, name: &str, bytes: Bytes) -> Result<Tag, DocumentError> {
        self.put(name, bytes, PutMode::Create).await
    }

    /// Replaces a document that is still what it was.
    ///
    /// # Errors
    /// [`DocumentError::Changed`] if it is not.
    pub async fn replace(&self, name: &str, bytes: Bytes, was: &Tag) -> Result<Tag, DocumentError> {
        self.put(name, bytes, PutMode::Update(was.0.clone())).await
    }

    async fn put(&self, name: &str, bytes: Bytes, mode: PutMode) -> Result<Tag, DocumentError> {
        let path = self.path(name)?;
        let options = PutOptions::from(mode);
        let put = self.store.put_opts(&path, PutPayload::from(bytes), options);
        let put = within(put).await?;
        Ok(Tag(put.into()))
    }

    /// Takes a document away, if it is there.
    ///
    /// # Errors
    /// If the store does not answer.
    pub async fn remove(&self, name: &str) -> Result<(), DocumentError> {
        let path = self.path(name)?;
        let removed = tokio::time::timeout(LIMIT, self.store.delete(&path)).await;
        match removed {
            Ok(Ok(()) | Err(Error::NotFound { .. })) => Ok(()),
            Ok(Err(error)) => Err(of(&error)),
            Err(_) => Err(late()),
        }
    }

    fn path(&self, name: &str) -> Result<Path, DocumentError> {
        let path = Path::parse(format!("{}{name}", self.prefix));
        path.map_err(|_| DocumentError::Away("can't name that document".into()))
    }
}

async fn within<T>(asked: impl Future<Output = Result<T, Error>>) -> Result<T, DocumentError> {
    match tokio::time::timeout(LIMIT, asked).await {
        Ok(answer) => answer.map_err(|error| of(&error)),
        Err(_) => Err(late()),
    }
}

fn late() -> DocumentError {
    DocumentError::Away("did not answer in time".into())
}

/// What an error means. Its text may hold addresses, so none of it is told.
fn of(error: &Error) -> DocumentError {
    match error {
        Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotModified { .. } => {
            DocumentError::Changed
        }
        Error::NotImplemented { .. } | Error::NotSupported { .. } => {
            DocumentError::Unconditional("can't")
        }
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
            DocumentError::Away("refuses: check its credentials and what they may write".into())
        }
        Error::NotFound { .. } => DocumentError::Away("has no such bucket".into()),
        _ => DocumentError::Away("can't be reached, or fails".into()),
    }
}
