//! The kinds of fault, by name: whom each strikes, for how long, and what it takes from readers.

/// Whom a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strikes {
    /// One member.
    Member,
    /// One member, and the way between it and another.
    Pair,
    /// The member that speaks TLS.
    Secure,
    /// The host that joins and leaves.
    Guest,
    /// The origin's answers.
    Origin,
    /// One object at the origin, and readers of it.
    Object,
}

/// What a fault takes away while it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    /// Nothing that a reader needs.
    Nothing,
    /// A member, which whoever asks it notices at once.
    Member,
    /// A member, or a way, without a word: whoever asks waits.
    Silently,
    /// A member's disk.
    Disk,
    /// Some of the origin's answers.
    Answers,
    /// The origin: the only path to what is not cached.
    OnlyPath,
}

macro_rules! kinds {
    ($($kind:ident $name:literal $strikes:ident $takes:ident $weight:literal $least:literal $most:literal $what:literal;)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub(super) enum Kind { $(#[doc = $what] $kind,)* }

        impl Kind {
            /// All of them, in the order in which they are told.
            pub(super) const ALL: &'static [Self] = &[$(Self::$kind,)*];

            /// Its name.
            pub(super) fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            /// Whom it strikes.
            pub(super) fn strikes(self) -> Strikes {
                match self { $(Self::$kind => Strikes::$strikes,)* }
            }

            /// What it takes away.
            pub(super) fn takes(self) -> Takes {
                match self { $(Self::$kind => Takes::$takes,)* }
            }

            /// How many of it are in one deck of the schedule.
            pub(super) fn weight(self) -> usize {
                match self { $(Self::$kind => $weight,)* }
            }

            /// The least and the most milliseconds that it lasts.
            pub(super) fn lasts(self) -> (u64, u64) {
                match self { $(Self::$kind => ($least, $most),)* }
            }
        }
    };
}

kinds! {
    Kill "kill" Member Member 2 300 2000 "SIGKILL; started again over its disk.";
    PowerCut "power-cut" Member Member 1 300 1500 "SIGKILL, and what was not synced is lost; started again over its disk.";
    DiskLost "disk-lost" Member Member 1 300 1500 "SIGKILL; started again over an empty disk.";
    Freeze "freeze" Member Silently 2 400 4000 "SIGSTOP, then SIGCONT.";
    Stop "stop" Member Member 1 200 1500 "SIGTERM; started again over its disk.";
    Drain "drain" Member Member 1 500 1500 "Drained by its route, then stopped; started again.";
    LittleMemory "little-memory" Member Member 1 3000 6000 "SIGKILL; started with 64 MiB of memory for a while.";
    Join "join" Guest Nothing 1 4000 9000 "Another member joins with nothing, and leaves.";
    CutOff "cut-off" Member Silently 1 500 4000 "Nothing passes between it and the other members.";
    Parted "parted" Pair Silently 1 500 4000 "Nothing passes between two members.";
    OneWay "one-way" Pair Silently 1 500 4000 "Nothing passes from one member to another.";
    Unreachable "unreachable" Member Silently 1 500 4000 "Nothing passes between it and the readers.";
    NoOrigin "no-origin" Member Silently 1 500 4000 "Nothing passes between it and the origin.";
    Loss "packet-loss" Member Nothing 1 1000 4000 "One packet in fifty is lost, each way.";
    Throttle "throttled" Member Nothing 1 1000 4000 "Its link carries 200 Mbit/s.";
    DiskFull "disk-full" Member Disk 1 1000 4000 "Its disk has no byte left.";
    BitFlips "bit-flips" Member Disk 2 0 0 "Bits flip in block files below its mounted file system.";
    Truncated "truncated" Member Disk 1 0 0 "Block files are cut off.";
    DiskHangs "disk-hangs" Member Disk 1 500 3000 "Its disk takes no write.";
    DiskFails "disk-fails" Member Member 1 1000 4000 "Every access to its disk fails; then killed, repaired and started.";
    Refuses "origin-refuses" Origin OnlyPath 1 500 3000 "The origin's port is closed.";
    Silent "origin-silent" Origin OnlyPath 1 500 3000 "Nothing passes to the origin.";
    Bounced "origin-bounced" Origin OnlyPath 1 100 300 "The origin is restarted: its connections break.";
    Status500 "status-500" Origin Answers 1 500 3000 "Half of the origin's answers are 500.";
    Status503 "status-503" Origin Answers 1 500 3000 "Half are 503.";
    Status429 "status-429" Origin Answers 1 500 3000 "Half are 429.";
    Stalls "stalls" Origin Answers 1 500 3000 "A third of the origin's bodies stand still for 3 s.";
    Cuts "cuts" Origin Answers 1 500 3000 "A third of its bodies are cut.";
    HangsUp "hangs-up" Origin Answers 1 500 3000 "A third of its connections are closed instead of an answer.";
    Short "short" Origin Answers 1 500 3000 "A third of its bodies lack their end, and look whole.";
    Long "long" Origin Answers 1 500 3000 "A third of its bodies are too long.";
    LyingRange "lying-range" Origin Answers 1 500 3000 "A third of its answers name another range.";
    WholeBody "whole-body" Origin Answers 1 500 3000 "A third of its answers are 200 and the whole object.";
    IgnoresIfMatch "ignores-if-match" Origin Answers 1 1000 4000 "If-Match is not looked at.";
    Overwritten "overwritten" Object Nothing 4 0 0 "An object is overwritten.";
    Deleted "deleted" Object Nothing 1 1000 4000 "An object is deleted, and comes again.";
    Purged "purged" Object Nothing 2 0 0 "An object is purged by the route.";
    Reload "reload" Member Nothing 1 0 0 "The settings are changed, and SIGHUP.";
    BadSettings "bad-settings" Member Nothing 1 500 1500 "The settings are broken, and SIGHUP.";
    Certificate "certificate" Secure Nothing 1 0 0 "The certificate is replaced.";
    Herd "herd" Object Nothing 1 0 0 "Forty readers want one object that nobody has read.";
    Idle "idle-readers" Member Nothing 1 1000 4000 "Thirty readers ask and take nothing.";
    Leavers "leavers" Member Nothing 1 0 0 "Thirty readers ask, take some, and leave.";
}
