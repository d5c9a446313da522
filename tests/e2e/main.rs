//! End to end: a real gateway, real origins, real clients.
//!
//! | module | claims about |
//! |---|---|
//! | `origins` | each kind of origin: bytes cold and hot, names, listings, fields that pass through |
//! | `odd_origins` | origins without validators, with weak tags, without ranges, that compress; wrong credentials; a dead origin |
//! | `http` | methods, targets, connections, h2c, malformed requests |
//! | `ranges` | Range: one, several, none, unsatisfiable |
//! | `conditions` | the five conditional fields and their precedence |
//! | `s3` | the S3 dialect by boto3, the AWS command line and by hand |
//! | `manners` | requests in every form, lawful and not, byte by byte; bodies that break off |
//! | `clients` | clients that exist, unmodified, cold and hot, signed and not |
//! | `door` | who may do what: signatures, secrets, lists of datasets, administrators |
//! | `freshness` | overwrites, deletes, `immutable`, `stale_for` |
//! | `control` | everything under `/-/` and the command line's client side |
//! | `ahead` | what is read ahead, for whom, and what is not |
//! | `temper` | an origin that stands still, breaks, refuses, is down, or wants other credentials |
//! | `directories` | files that change in place, pipes, links that turn and that go round |
//! | `standing_still` | clients that say nothing or take nothing, over HTTP/1.1 and HTTP/2 |
//! | `under_way` | what is reloaded or purged while it is being asked for |
//! | `loops` | origins that are the gateway itself |
//! | `settings` | the settings file, arguments, `check`, help, secrets |
//! | `lifecycle` | start, reload, stop, what two processes share, the demo |
//! | `limits` | `[limits]`: who may connect, how long they may be silent, who is answered all the same |
//! | `when` | memory that is too small, a clock that is wrong |
//! | `tls` | `[tls]`: versions, client certificates, certificates that change, handshakes that fail |
//! | `floods` | HTTP/2 connections that send what costs them nothing |
//! | `cors` | what pages in browsers are told |
//! | `nvme` | the disk tier: kills, purges, damage, disks that fill or fail |
//! | `fleet` | several gateways: once per fleet, members that die and freeze, keys, purges, what is told of it |
//! | `elastic` | members that come, go, crash and come back: what the object store notices of it |
//! | `fleet_hot` | blocks that many gateways want at once |
//! | `fleet_keys` | what members prove to each other: keys that are replaced, TLS |
//! | `fleet_purges` | purges and overwrites over a fleet, and members that were away meanwhile |
//! | `fleet_ways` | how bytes go through a fleet: requests, zones, versions, settings that differ |
//! | `lying_peer` | bytes that change between two gateways |
//! | `flow` | flows: what is refused, what comes of failures, kills, schedules, and the release of a model as one submission |
//! | `deploy` | what runs it elsewhere: service manager, units, compose file |
//! | `scenario` | the load generator's shaped networks: that they work, and that they go |
//! | `copy` | copying between datasets: every byte, once, and what a kill leaves |
//! | `revision` | switching a dataset from one revision to another: whole, for all members, or not at all |
//! | `warm` | warming: jobs, what `done` means, kills and purges meanwhile, several gateways |
//! | `harness` | the harness itself: that the odd origins are as odd as they should be |

// The processes under test live by the real clock, so these tests do too.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod ahead;
mod clients;
mod conditions;
mod control;
mod copy;
mod cors;
mod deploy;
mod directories;
mod door;
mod elastic;
mod fleet;
mod fleet_hot;
mod fleet_keys;
mod fleet_purges;
mod fleet_ways;
mod floods;
mod flow;
mod freshness;
mod harness;
mod http;
mod lifecycle;
mod limits;
mod loops;
mod lying_peer;
mod manners;
mod nvme;
mod odd_origins;
mod origins;
mod ranges;
mod revision;
mod s3;
mod scenario;
mod settings;
mod stage;
mod standing_still;
mod temper;
mod tls;
mod under_way;
mod warm;
mod when;
