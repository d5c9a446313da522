//! S3, as far as reading goes: which operation a request is, and the answers about buckets.

pub mod error;
pub mod list;
pub mod query;
pub mod xml;

use std::sync::Arc;

use forebay_storage::error::OriginError;
use forebay_storage::listing::ListPage;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, StatusCode};

use self::error::{CONTENT_TYPE, Code, S3Error};
use self::list::ListAsked;
use super::Reply;
use super::object;
use super::target::{Place, Target};
use crate::access::Caller;
use crate::dataset::Dataset;
use crate::error::of_origin;
use crate::gateway::Gateway;
use crate::revision::{NotNow, Revision};

/// Names the revision that an answer is of, or that a reader wants to stay with.
const REVISION: HeaderName = HeaderName::from_static("x-forebay-revision");

/// Answers a request at the root, a dataset or an object, of a `caller` who may read what it names; with the dataset of that
/// name, if there is one.
///
/// # Errors
/// What goes out as S3's error document.
pub async fn answer(
    gateway: &Arc<Gateway>,
    parts: &Parts,
    target: &Target,
    dataset: Option<&Arc<Dataset>>,
    caller: &Caller,
) -> Result<Reply, S3Error> {
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        let kind = match target.place {
            Place::Object { .. } => "OBJECT",
            Place::Dataset { .. } => "BUCKET",
            Place::Root | Place::Ours { .. } => "SERVICE",
        };
        return Err(S3Error::method_not_allowed(parts.method.as_str(), kind));
    }
    if let Some(what) = query::unsupported(&target.query, &target.place) {
        return Err(S3Error::not_implemented(what));
    }
    match &target.place {
        Place::Root | Place::Ours { .. } => Ok(list_buckets(gateway, caller)),
        Place::Dataset { name, .. } => {
            let dataset = dataset.ok_or_else(|| S3Error::no_such_bucket(name))?;
            if parts.method == Method::HEAD {
                return Ok(head_bucket());
            }
            if target.query.has("location") {
                let xml = list::location_xml(None);
                return Ok(Reply::text(StatusCode::OK, CONTENT_TYPE, xml.into()));
            }
            // Boxed, so that the future of a read is not as large as this one.
            let revision = revision(gateway, dataset, parts).await?;
            Box::pin(list_objects(gateway, dataset, target, revision)).await
        }
        Place::Object { dataset: name, key } => {
            let dataset = dataset.ok_or_else(|| S3Error::no_such_bucket(name))?;
            let revision = revision(gateway, dataset, parts).await?;
            let pinned = match &revision {
                None => None,
                Some(revision) => {
                    let pinned = revision.get(key);
                    Some(pinned.ok_or_else(|| S3Error::no_such_key(&dataset.name, key))?)
                }
            };
            let request = (parts, &target.query);
            let answer = object::answer(&gateway.reads, dataset, key, request, pinned).await?;
            Ok(match &revision {
                None => answer,
                Some(revision) => named(answer, revision),
            })
        }
    }
}

/// The revision to read of a dataset: the one that the reader names, else the one that it has, if it has any.
async fn revision(
    gateway: &Gateway,
    dataset: &Dataset,
    parts: &Parts,
) -> Result<Option<Arc<Revision>>, S3Error> {
    let (revisions, wanted) = (&gateway.state.revisions, parts.headers.get(REVISION));
    // Most datasets have none, and are asked for often.
    if wanted.is_none() && !revisions.concerns(&dataset.name) {
        return Ok(None);
    }
    let wanted = wanted.map(|wanted| wanted.to_str().unwrap_or_default());
    let found = Box::pin(revisions.of(&dataset.name, wanted)).await;
    found.map_err(|why| match why {
        NotNow::Unconfirmed | NotNow::Unread(_) => {
            S3Error::new(Code::ServiceUnavailable, why.to_string())
        }
        NotNow::Unknown => S3Error::precondition_failed(REVISION.as_str()),
    })
}

/// Says which revision an answer is of.
fn named(mut reply: Reply, revision: &Revision) -> Reply {
    if let Ok(id) = HeaderValue::try_from(&revision.id) {
        reply.headers.insert(REVISION, id);
    }
    reply
}

fn list_buckets(gateway: &Gateway, caller: &Caller) -> Reply {
    let all = gateway.datasets.all();
    let names = all.iter().map(|dataset| &*dataset.name);
    let names = names.filter(|name| caller.may_read(name));
    let xml = list::buckets_xml(names, gateway.datasets.since);
    Reply::text(StatusCode::OK, CONTENT_TYPE, xml.into())
}

fn head_bucket() -> Reply {
    let mut reply = Reply::empty(StatusCode::OK);
    let region = HeaderValue::from_static("us-east-1");
    reply.headers.insert("x-amz-bucket-region", region);
    reply
}

async fn list_objects(
    gateway: &Gateway,
    dataset: &Arc<Dataset>,
    target: &Target,
    revision: Option<Arc<Revision>>,
) -> Result<Reply, S3Error> {
    let asked = ListAsked::parse(&target.query)?;
    if let Some(revision) = revision {
        let xml = asked.xml(&dataset.name, &revision.page(&asked.request));
        let reply = Reply::text(StatusCode::OK, CONTENT_TYPE, xml.into());
        return Ok(named(reply, &revision));
    }
    let page = if asked.request.max_keys == 0 {
        Arc::new(ListPage::default())
    } else {
        let page = gateway.listings.page(dataset, &asked.request).await;
        page.map_err(|error| match error {
            // The bucket itself: a listing names no key.
            OriginError::NotFound => S3Error::no_such_bucket(&dataset.name),
            error => of_origin(&error, &dataset.name, "", None),
        })?
    };
    let xml = asked.xml(&dataset.name, &page);
    Ok(Reply::text(StatusCode::OK, CONTENT_TYPE, xml.into()))
}
