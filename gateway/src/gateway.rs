//! A request in, an answer out: no sockets here.
//!
//! Everything that serves or tests a gateway goes through [`Gateway::handle`]: the listener with
//! real connections, the simulator with none.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use axum::Router;
use bytes::Bytes;
use forebay_ring::Fleet;
use forebay_storage::store::Store;
use forebay_storage::versions::Versions;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request};
use http_body::Body as HttpBody;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tower::ServiceExt;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::access::{self, Access, Caller, Refusal};
use crate::account::{Account, RequestId};
use crate::body::{Body, Content};
use crate::control::guard::{Need, Verdict};
use crate::control::{self, State};
use crate::dataset::{Dataset, Datasets};
use crate::dialect::cors::Cors;
use crate::dialect::peer::Desk;
use crate::dialect::s3::error::{CONTENT_TYPE, Code, S3Error};
use crate::dialect::target::{Place, Query, Target, TargetError};
use crate::dialect::{self, Reply, head, s3};
use crate::error;
use crate::listings::Listings;
use crate::metrics::{Metrics, PeerMetrics};
use crate::peer::wire::{self, Question};
use crate::peer::{Peer, PeerBody, Peers};
use crate::read::Reads;
use crate::read::growth::Ahead;
use crate::read::passes::Passes;

/// How long a request beyond `max_requests` waits for its turn.
const PERMIT_WAIT: Duration = Duration::from_secs(10);

/// What a gateway is made of.
#[derive(Debug)]
pub struct Parts {
    /// Blocks and fills.
    pub store: Arc<Store>,
    /// What is served.
    pub datasets: Arc<Datasets>,
    /// Who may do what.
    pub access: Access,
    /// The gateway's own name.
    pub name: Arc<str>,
    /// Requests answered at once.
    pub max_requests: usize,
    /// Whether each request has its log line.
    pub log_access: bool,
    /// Where request ids begin; any number, another one at each start.
    pub seed: u64,
    /// The fleet, and how to ask its members; `None`: a fleet of one.
    pub fleet: Option<FleetParts>,
}

/// What makes a gateway one of several.
#[derive(Debug)]
pub struct FleetParts {
    /// The fleet as it is.
    pub fleet: watch::Receiver<Arc<Fleet>>,
    /// How requests get to other members.
    pub transport: Arc<dyn Peer>,
}

/// A gateway.
#[derive(Debug)]
pub struct Gateway {
    /// What every read uses.
    pub reads: Arc<Reads>,
    /// What is served.
    pub datasets: Arc<Datasets>,
    /// Who may do what.
    pub access: Access,
    /// Listings of late.
    pub listings: Arc<Listings>,
    /// All that is counted.
    pub metrics: Arc<Metrics>,
    /// What the routes under `/-/` see and change.
    pub state: Arc<State>,
    control: Router,
    desk: Option<Desk>,
    permits: Arc<Semaphore>,
    log_access: bool,
    seed: u64,
    requests: AtomicU64,
}

/// Who is at the other end, as the listener knows; in the extensions of a request under `/-/`.
#[derive(Clone, Copy, Debug)]
pub struct Remote {
    /// Their address.
    pub address: SocketAddr,
    /// Whether the listener they came to offers all of `/-/`, or only healthz and readyz.
    pub controls: bool,
    /// Whether they came through TLS, so that what they send is nobody else's to read.
    pub tls: bool,
}

impl Gateway {
    /// Puts a gateway together. It is not ready until [`State::set_ready`] says so.
    ///
    /// # Errors
    /// If a metric's name is taken twice.
    pub fn new(parts: Parts) -> prometheus::Result<Arc<Self>> {
        let metrics = Arc::new(Metrics::new()?);
        metrics.watch(&parts.datasets, &parts.store)?;
        let peers = match parts.fleet {
            Some(FleetParts { fleet, transport }) => {
                let counted = PeerMetrics::new(&metrics.registry)?;
                let peers = Peers::new(fleet, transport, Arc::clone(&counted));
                counted.watch(&peers);
                Some(peers)
            }
            None => None,
        };
        let block_size = parts.store.block_size();
        let [used, unused] = metrics.read_ahead.clone();
        let reads = Arc::new(Reads {
            store: parts.store,
            versions: Arc::new(Versions::default()),
            metrics: Arc::clone(&metrics),
            demand: Arc::default(),
            peers: peers.clone(),
            ahead: Ahead::default(),
            passes: Passes::new(block_size, used, unused),
        });
        let desk = peers.map(|peers| {
            let (reads, datasets) = (Arc::clone(&reads), Arc::clone(&parts.datasets));
            Desk::new(reads, datasets, peers)
        });
        let listings = Arc::new(Listings::default());
        let state = Arc::new(State::new(
            parts.name,
            Arc::clone(&reads),
            Arc::clone(&parts.datasets),
            Arc::clone(&listings),
            parts.seed,
        ));
        Ok(Arc::new(Self {
            control: control::router(Arc::clone(&state)),
            desk,
            reads,
            datasets: parts.datasets,
            access: parts.access,
            listings,
            metrics,
            state,
            permits: Arc::new(Semaphore::new(parts.max_requests)),
            log_access: parts.log_access,
            seed: parts.seed,
            requests: AtomicU64::new(0),
        }))
    }

    /// Answers a request whose body, if it has one, is not read.
    ///
    /// Dropping the future gives the request up; fills that it started go on while others follow
    /// them.
    pub async fn handle<B>(self: &Arc<Self>, request: Request<B>) -> Response<Body> {
        let (parts, _) = request.into_parts();
        self.respond(None, parts, axum::body::Body::empty()).await
    }

    /// [`Self::handle`] for a request of `remote`, whose body may be worth reading if it is one under
    /// `/-/`.
    pub fn handle_from<B>(
        self: &Arc<Self>,
        remote: Remote,
        request: Request<B>,
    ) -> impl Future<Output = Response<Body>> + Send
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<axum::BoxError>,
    {
        let (parts, body) = request.into_parts();
        let body = if parts.uri.path().starts_with("/-") {
            axum::body::Body::new(body)
        } else {
            axum::body::Body::empty()
        };
        self.respond(Some(remote), parts, body)
    }

    #[allow(
        clippy::manual_async_fn,
        reason = "the future of an async fn holds what it is given twice, and is moved with each request"
    )]
    fn respond(
        self: &Arc<Self>,
        remote: Option<Remote>,
        parts: request::Parts,
        body: axum::body::Body,
    ) -> impl Future<Output = Response<Body>> + Send {
        async move {
            let last = head::ends_connection(&parts);
            let account = self.account(remote, &parts);
            let mut response = match self.target(&parts) {
                Err(mistake) => self.finish(account, &parts, Err(mistake.into())),
                Ok(target) if matches!(target.place, Place::Ours { .. }) => {
                    Box::pin(self.control(account, parts, &target.query, body)).await
                }
                Ok(target) => self.data(account, &parts, &target).await,
            };
            if last {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            response
        }
    }

    /// Answers a request of another gateway, the member `from`, which has proved that it is one.
    pub async fn handle_peer<B>(
        self: &Arc<Self>,
        from: &str,
        request: Request<B>,
    ) -> Response<PeerBody>
    where
        B: http_body::Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static>,
    {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path();
        let response = match (&self.desk, Question::parse(&parts)) {
            _ if !wire::is_for(&parts.headers, &self.state.name) => {
                let (status, headers) =
                    wire::refusal(StatusCode::MISDIRECTED_REQUEST, "it has another name");
                let mut response = Response::new(dialect::peer::nothing());
                (*response.status_mut(), *response.headers_mut()) = (status, headers);
                response
            }
            _ if wire::is_ping(&parts.uri) => {
                let is_busy = self.desk.as_ref().is_some_and(|desk| desk.is_busy());
                dialect::peer::pong(&self.reads, &self.datasets, is_busy)
            }
            // Whoever is refused here asks the next one, who may have had it until now.
            (Some(desk), Some(question)) if !self.state.is_starting() => {
                desk.answer(from, &question, &parts.headers).await
            }
            _ => control::fleet::answer(&self.state, from, &parts, body).await,
        };
        let status = response.status();
        tracing::trace!(member = from, path, %status, "answered a member");
        if let Some(peers) = &self.reads.peers {
            let answers = &peers.metrics.answers;
            answers.with_label_values(&[status.as_str()]).inc();
        }
        response
    }

    fn account(&self, remote: Option<Remote>, parts: &request::Parts) -> Box<Account> {
        let (metrics, method) = (Arc::clone(&self.metrics), parts.method.clone());
        let id = self.request_id();
        let mut account = Box::new(Account::open(metrics, self.log_access, id, method));
        account.remote = remote;
        account.target = self.log_access.then(|| parts.uri.clone());
        account
    }

    /// What a request is for. A target below `/-/` that can't be read is for the routes there to refuse.
    fn target(&self, parts: &request::Parts) -> Result<Target, TargetError> {
        if let Some(dataset) = self.access.dataset_in_host(parts) {
            return Target::parse_in(&parts.uri, &dataset);
        }
        match Target::parse(&parts.uri) {
            Err(_) if parts.uri.path().starts_with("/-/") => {
                let (query, rest) = (Query::default(), String::new());
                let place = Place::Ours { rest };
                Ok(Target { query, place })
            }
            target => target,
        }
    }

    /// Answers a request for something of a dataset, or for the list of them.
    async fn data(
        self: &Arc<Self>,
        mut account: Box<Account>,
        parts: &request::Parts,
        target: &Target,
    ) -> Response<Body> {
        account.api = "s3";
        if let Err(mistake) = head::judge(parts) {
            return self.finish(account, parts, Err(mistake.into()));
        }
        let name = target.place.dataset();
        let dataset = name.and_then(|name| self.datasets.get(name));
        let cors = Cors::of(dataset.as_deref(), &parts.headers);
        let reply = match cors.preflight(parts) {
            Some(reply) => reply,
            None => {
                let dataset = dataset.as_ref();
                self.read(&mut account, parts, target, dataset).await
            }
        };
        let mut response = self.finish(account, parts, reply);
        cors.tell(response.headers_mut());
        response
    }

    async fn read(
        self: &Arc<Self>,
        account: &mut Account,
        parts: &request::Parts,
        target: &Target,
        dataset: Option<&Arc<Dataset>>,
    ) -> Result<Reply, S3Error> {
        if head::came_back(parts) {
            let looped = "The origin of this dataset is this gateway itself; name the object store";
            return Err(S3Error::new(Code::BadGateway, looped));
        }
        let caller = self.reader(account, parts, target).map_err(|mut refusal| {
            if refusal.error.code == Code::NoCredentials {
                refusal.error.code = access::code_without_credentials(&parts.headers);
            }
            refusal.error
        })?;
        account.permit = self.permit().await;
        if account.permit.is_none() {
            let shed = &self.metrics.shed;
            shed.with_label_values(&["max_requests"]).inc();
            let busy = "The gateway is answering max_requests requests; come again later";
            return Err(S3Error::new(Code::SlowDown, busy));
        }
        s3::answer(self, parts, target, dataset, &caller).await
    }

    /// Who asks for an object or a listing, if they may have it.
    fn reader(
        &self,
        account: &mut Account,
        parts: &request::Parts,
        target: &Target,
    ) -> Result<Caller, Refusal> {
        let (remote, now) = (account.remote.as_ref(), SystemTime::now);
        let caller = self.access.caller(parts, &target.query, remote, None, now);
        let judged = caller.and_then(|caller| {
            account.key = caller.key_id().cloned();
            if let Some(name) = target.place.dataset() {
                caller.judge_reader(name)?;
            }
            caller.judge_overrides(&target.query)?;
            Ok(caller)
        });
        judged.inspect_err(|refusal| self.metrics.refuse(refusal.reason))
    }

    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Some(permit);
        }
        let permit = Arc::clone(&self.permits).acquire_owned();
        let permit = Box::pin(tokio::time::timeout(PERMIT_WAIT, permit)).await;
        permit.ok()?.ok()
    }

    async fn control(
        &self,
        mut account: Box<Account>,
        parts: request::Parts,
        query: &Query,
        body: axum::body::Body,
    ) -> Response<Body> {
        account.api = "control";
        let (body, verdict) = match self.admit(&mut account, &parts, query, body).await {
            Ok(body) => (body, Verdict::Admitted),
            Err(refusal) => {
                self.metrics.refuse(refusal.reason);
                account.failed(refusal.to_string());
                let challenge = access::challenge(account.remote.as_ref());
                let refused = Verdict::of(&refusal, challenge);
                (axum::body::Body::empty(), refused)
            }
        };
        let mut request = Request::from_parts(parts, body);
        if let Some(remote) = account.remote {
            request.extensions_mut().insert(remote);
        }
        request.extensions_mut().insert(account.request_id);
        request.extensions_mut().insert(verdict);
        let Ok(mut response) = self.control.clone().oneshot(request).await;
        account.request_id.tell(response.headers_mut());
        account.status = response.status().as_u16();
        response.map(|body| Body::new(Content::Control(body), None, account))
    }

    /// Counts and tells a request whose head the server's parser refused, with this `status` and by itself:
    /// its client has no request id.
    pub fn refused(&self, remote: SocketAddr, status: StatusCode, why: String) {
        // The method, if there was one, is as unknown as the rest of the line.
        let method = Method::from_bytes(b"-").unwrap_or_default();
        let metrics = Arc::clone(&self.metrics);
        let mut account = Account::open(metrics, self.log_access, self.request_id(), method);
        account.remote = Some(Remote {
            address: remote,
            controls: false,
            tls: false,
        });
        account.status = status.as_u16();
        account.failed(why);
        account.finish();
    }

    /// Whether a request under `/-/` may be answered, with its body if that is what was signed.
    async fn admit(
        &self,
        account: &mut Account,
        parts: &request::Parts,
        query: &Query,
        body: axum::body::Body,
    ) -> Result<axum::body::Body, Refusal> {
        let need = Need::of(parts.uri.path());
        if need == Need::Nothing {
            return Ok(body);
        }
        let (body, hash) = self.access.read_unsaid(parts, body).await?;
        let (remote, hash, now) = (account.remote.as_ref(), hash.as_deref(), SystemTime::now);
        let caller = self.access.caller(parts, query, remote, hash, now)?;
        account.key = caller.key_id().cloned();
        match need {
            Need::Reader(dataset) => caller.judge_reader(&dataset)?,
            _ => {
                self.access.judge_host(parts)?;
                caller.judge_admin(&parts.headers, parts.method == Method::GET)?;
            }
        }
        caller.signed_body(body).await
    }

    /// The one place where a reply, good or bad, becomes a response.
    fn finish(
        &self,
        mut account: Box<Account>,
        parts: &request::Parts,
        reply: Result<Reply, S3Error>,
    ) -> Response<Body> {
        let mut reply = reply.unwrap_or_else(|error| {
            account.failed(error.to_string());
            self.error_reply(&account, parts.uri.path(), &error)
        });
        if parts.method == Method::HEAD {
            // A HEAD's answer has the headers of a GET's, its length among them, and no body.
            reply.content = Content::Empty;
            reply.left = Some(0);
        }
        account.request_id.tell(&mut reply.headers);
        account.status = reply.status.as_u16();
        account.cache_status = reply.cache_status;
        account.stats = reply.stats;
        let body = Body::new(reply.content, reply.left, account);
        let mut response = Response::new(body);
        *response.status_mut() = reply.status;
        *response.headers_mut() = reply.headers;
        response
    }

    fn error_reply(&self, account: &Account, path: &str, error: &S3Error) -> Reply {
        let xml = error.xml(path, account.request_id.as_str(), &self.state.name);
        let status = error.code.status();
        let mut reply = Reply::text(status, CONTENT_TYPE, xml.into());
        if let Some(seconds) = error::retry_after(status) {
            reply
                .headers
                .insert(header::RETRY_AFTER, HeaderValue::from_static(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            let challenge = access::challenge(account.remote.as_ref());
            reply.headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static(challenge),
            );
        }
        if status == StatusCode::METHOD_NOT_ALLOWED {
            let allowed = HeaderValue::from_static("GET, HEAD");
            reply.headers.insert(header::ALLOW, allowed);
        }
        if let Some(size) = error.actual_size()
            && let Ok(range) = HeaderValue::try_from(format!("bytes */{size}"))
        {
            // RFC 9110 §15.5.17.
            reply.headers.insert(header::CONTENT_RANGE, range);
        }
        reply
    }

    pub(crate) fn request_id(&self) -> RequestId {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        RequestId::new(xxh3_64_with_seed(&number.to_le_bytes(), self.seed))
    }
}
