//! What a push changes on each host, according to what this repository knows. This neither connects nor writes.
//!
//! All commands that show or make a deployment use the same [`Planner`]: `git push`, its dry run, and `git deptool`.

mod contents;
mod stand_in;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    num::NonZero,
    sync::Arc,
    thread,
};

use contents::Objects;
use deptool_agent::shared::{
    desired::Desired,
    id::{CommitId, TreeId},
    name::{ClusterName, HostName},
    outcome::Goal,
    plan::HostPlan,
    text::hex,
    tree::{Apps, HostTree},
    wire::{Lease, Repair},
};
use sha2::{Digest as _, Sha256};

use crate::{
    config::HostRemote,
    fleet::{parallel, remote::RemoteError},
    model::{batch::Ancestry, error::chain, outcome::RefUpdate, push_option::PlainText, safeguards::Safeguards},
    repo::{Files, PromisedError, Repo},
    state::{HostFacts, Known, Tracked, Tracking, pairs::Pair},
};

/// For fewer trees than this, starting a thread costs more than it saves.
const WORTH_A_THREAD: usize = 8;

/// The request that is planned for.
#[derive(Debug, Clone)]
pub struct Intent {
    pub cluster: ClusterName,
    pub goal: Goal,
    pub ancestry: Ancestry,
    /// `--force-with-lease`.
    pub lease: Option<Lease>,
    /// Whether to deploy to hosts that already run the commit, too.
    pub repair: Repair,
    pub scope: Scope,
    pub plain: PlainText,
}

/// Whether a push names a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// One host, by its name. It is an error if the tree has no directory for it.
    OneHost,
    /// Those hosts of a group, or of the tree, that are affected.
    Group,
}

/// The effect of a push on one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Impact {
    Affected(Box<HostChange>),
    /// Nothing changes in the host's directory.
    Unaffected,
    /// The push would fail.
    Refused(Refusal),
}

/// The change on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostChange {
    /// What the host's directory is called in the deployed commit, if it was renamed since.
    pub renamed_from: Option<HostName>,
    pub tracked: Option<Tracked>,
    pub expected: Lease,
    pub update: RefUpdate,
    pub trees: Trees,
    /// Hosts with equal changes share one plan.
    pub plan: Arc<HostPlan>,
    pub safeguards: Arc<Safeguards>,
    /// Entries next to the apps, which are not deployed.
    pub ignored: Arc<[String]>,
}

/// Why a push would fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The named lease differs from the known commit.
    Stale,
    /// The commit that the host runs is not part of the new commit's history.
    NonFastForward {
        /// The running commit, if it is not in this repository.
        missing: Option<CommitId>,
    },
    /// The host's directory is not valid.
    Unfit(String),
    /// Any other reason.
    Other(String),
}

/// Makes the plans for one request. Lookups that several hosts need are made once.
pub struct Planner<'r> {
    repo: &'r Repo,
    intent: Intent,
    /// The projections in the new commit's history.
    projected: Vec<Pair>,
    /// The hosts' directories in each commit that is an old or a new one.
    roots: HashMap<CommitId, BTreeMap<HostName, TreeId>>,
    /// Whether the new commit descends from an old one.
    forward: HashMap<CommitId, bool>,
}

/// A decision that needs no tree.
enum Judged {
    Refused(Refusal),
    Unaffected,
    /// The directories differ.
    Different {
        renamed_from: Option<HostName>,
        tracked: Option<Tracked>,
        expected: Lease,
        trees: Trees,
        otherwise: IfNothingChanges,
        /// Whether the commit may follow what runs. That matters only if the host is affected.
        update: Result<RefUpdate, Refusal>,
    },
}

/// Whether to deploy to a host even if nothing in its apps changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum IfNothingChanges {
    Deployed,
    Unaffected,
}

/// The host's directory before and after; `None` if there is none.
pub type Trees = (Option<TreeId>, Option<TreeId>);

/// The result of comparing two trees: the plan, its safeguards, and the ignored entries.
type Drawn = Result<(Arc<HostPlan>, Arc<Safeguards>, Arc<[String]>), String>;

/// The plan for all or some hosts of a cluster.
#[derive(Debug, Clone)]
pub struct ClusterPlan {
    pub cluster: ClusterName,
    pub goal: Goal,
    pub hosts: Vec<HostForecast>,
}

/// One host of a [`ClusterPlan`].
#[derive(Debug, Clone)]
pub struct HostForecast {
    pub remote: HostRemote,
    pub known: Known,
    pub impact: Impact,
}

impl ClusterPlan {
    /// Make the plan for `hosts` according to what is known of them now.
    pub fn make(repo: &Repo, intent: Intent, hosts: Vec<HostRemote>) -> Result<Self, RemoteError> {
        let known = Tracking::new(repo).known(&hosts.iter().collect::<Vec<_>>())?;
        let (cluster, goal) = (intent.cluster.clone(), intent.goal);
        let pairs: Vec<_> = hosts.iter().zip(&known).collect();
        let impacts = Planner::new(repo, intent)?.impacts(&pairs);
        let joined = hosts.into_iter().zip(known).zip(impacts);
        let hosts = joined.map(|((remote, known), impact)| HostForecast { remote, known, impact }).collect();
        Ok(ClusterPlan { cluster, goal, hosts })
    }

    /// The hosts that change, with the changes.
    pub fn affected(&self) -> impl Iterator<Item = (&HostRemote, &HostChange)> {
        self.hosts.iter().filter_map(|host| match &host.impact {
            Impact::Affected(change) => Some((&host.remote, change.as_ref())),
            Impact::Unaffected | Impact::Refused(_) => None,
        })
    }

    /// The hosts that would refuse the push, with the reasons.
    pub fn refused(&self) -> impl Iterator<Item = (&HostRemote, &Refusal)> {
        self.hosts.iter().filter_map(|host| match &host.impact {
            Impact::Refused(refusal) => Some((&host.remote, refusal)),
            Impact::Unaffected | Impact::Affected(_) => None,
        })
    }

    /// See [`digest`].
    pub fn digest(&self) -> String {
        digest(&self.cluster, self.goal, self.affected().map(|(host, c)| (&host.host, c.expected, &*c.plan)))
    }

    /// A digest of which hosts change, from what to what, and how. Unlike [`Self::digest`] it is the same for each commit
    /// with the same content: for that of a merge request and for that of its merge.
    pub fn content_digest(&self) -> String {
        let directory = |tree: Option<TreeId>| tree.map_or("nothing".into(), |tree| tree.to_string());
        let lines = self.affected().map(|(host, change)| {
            let ((old, new), plan) = (change.trees, hex(&change.plan.digest().0));
            format!("{} {} {} {plan}\n", host.host, directory(old), directory(new))
        });
        digest_of_lines("deptool content 1", &self.cluster.to_string(), lines.collect())
    }
}

/// The digest that `-o plan=<digest>` must match. It covers the affected hosts, the commit that each of them must run,
/// and its changes.
pub fn digest<'a>(
    cluster: &ClusterName,
    goal: Goal,
    affected: impl Iterator<Item = (&'a HostName, Lease, &'a HostPlan)>,
) -> String {
    let goal = match goal {
        Goal::Commit(commit) => commit.to_string(),
        Goal::Nothing => "nothing".into(),
    };
    let lines: Vec<String> = affected
        .map(|(host, expected, plan)| {
            let expected = match expected {
                Lease::At(commit) => commit.to_string(),
                Lease::Absent => "absent".into(),
            };
            format!("{host} {expected} {}\n", hex(&plan.digest().0))
        })
        .collect();
    digest_of_lines("deptool cluster plan 1", &format!("{cluster} {goal}"), lines)
}

fn digest_of_lines(kind: &str, heading: &str, mut lines: Vec<String>) -> String {
    lines.sort();
    hex(&Sha256::digest(format!("{kind}\n{heading}\n{}", lines.concat())))
}

impl Refusal {
    /// The reason in words, Git's or ours.
    pub fn words(&self) -> String {
        match self {
            Refusal::Stale => "stale info".into(),
            Refusal::NonFastForward { missing: None } => "the commit does not descend from what runs there".into(),
            Refusal::NonFastForward { missing: Some(commit) } => format!(
                "runs {}, which is not in this repository; get it from the operator who deployed it, then merge it",
                commit.short()
            ),
            Refusal::Unfit(why) | Refusal::Other(why) => why.clone(),
        }
    }
}

impl<'r> Planner<'r> {
    pub fn new(repo: &'r Repo, intent: Intent) -> Result<Self, RemoteError> {
        let projected = match intent.goal {
            Goal::Commit(commit) => Tracking::new(repo).projections_in(commit)?,
            Goal::Nothing => Vec::new(),
        };
        Ok(Planner { repo, intent, projected, roots: HashMap::new(), forward: HashMap::new() })
    }

    /// The effect of the push on each of `hosts`, in their order.
    pub fn impacts(&mut self, hosts: &[(&HostRemote, &Known)]) -> Vec<Impact> {
        let judged: Vec<Judged> = hosts
            .iter()
            .map(|(host, known)| {
                self.judge(host, known).unwrap_or_else(|error| Judged::Refused(Refusal::Other(chain(&error))))
            })
            .collect();
        let mut different: HashMap<Trees, usize> = HashMap::new();
        let mut work = Vec::new();
        for one in &judged {
            if let Judged::Different { trees, .. } = one {
                different.entry(*trees).or_insert_with(|| {
                    work.push(*trees);
                    work.len() - 1
                });
            }
        }
        let lacks = self.need(&work).err().map(|error| chain(&error));
        let drawn = draw(self.repo, &work, self.intent.plain);
        let finish = |judged| match judged {
            Judged::Refused(refusal) => Impact::Refused(refusal),
            Judged::Unaffected => Impact::Unaffected,
            Judged::Different { .. } if lacks.is_some() => {
                Impact::Refused(Refusal::Other(lacks.clone().unwrap_or_default()))
            }
            Judged::Different { renamed_from, tracked, expected, trees, otherwise, update } => {
                match (drawn[different[&trees]].clone(), update) {
                    (Ok((plan, ..)), _) if plan.is_empty() && otherwise == IfNothingChanges::Unaffected => {
                        Impact::Unaffected
                    }
                    (_, Err(refusal)) => Impact::Refused(refusal),
                    (Ok((plan, safeguards, ignored)), Ok(update)) => {
                        let change =
                            HostChange { renamed_from, tracked, expected, update, trees, plan, safeguards, ignored };
                        Impact::Affected(Box::new(change))
                    }
                    (Err(why), Ok(_)) => Impact::Refused(Refusal::Unfit(why)),
                }
            }
        };
        judged.into_iter().map(finish).collect()
    }

    /// In a partial clone, fetch the objects that the plans and the deployments need.
    fn need(&self, work: &[Trees]) -> Result<(), PromisedError> {
        work.iter().try_for_each(|(old, new)| match (old, new) {
            (old, Some(new)) => self.repo.need_host(*new, Files::Beyond(*old)),
            (Some(old), None) => self.repo.need_host(*old, Files::Planned),
            (None, None) => Ok(()),
        })
    }

    fn judge(&mut self, host: &HostRemote, known: &Known) -> Result<Judged, RemoteError> {
        let refuse = |text| Ok(Judged::Refused(Refusal::Other(text)));
        let (name, cluster) = (&host.host, self.intent.cluster.clone());
        if let Some(other) = known.clusters.keys().find(|known| **known != cluster) {
            return refuse(format!(
                "'{name}' belongs to cluster '{other}', not '{cluster}'; push '<branch>:{other}' to deploy another branch \
                 there, as after a rename"
            ));
        }
        let tracked = known.clusters.get(&cluster).copied();
        let expected = tracked.map_or(Lease::Absent, |tracked| Lease::At(tracked.real));
        if self.named_lease(tracked).is_some_and(|named| named != expected) {
            return Ok(Judged::Refused(Refusal::Stale));
        }
        let (old, renamed_from) = match tracked {
            Some(tracked) => self.deployed_tree(host, tracked)?,
            None => (None, None),
        };
        let commit = match self.intent.goal {
            Goal::Commit(commit) => commit,
            Goal::Nothing if tracked.is_none() => return refuse(format!("nothing is known to run on '{name}'")),
            Goal::Nothing => {
                let (update, otherwise) = (Ok(RefUpdate::FastForward), IfNothingChanges::Deployed);
                return Ok(Judged::Different {
                    renamed_from,
                    tracked,
                    expected,
                    trees: (old, None),
                    otherwise,
                    update,
                });
            }
        };
        if let Some(other) = self.projected_for_another(name) {
            return refuse(format!("the commit was made from a projection of '{other}', which contains nothing else"));
        }
        let Some(new) = self.host_tree(commit, name)? else {
            return match self.intent.scope {
                Scope::OneHost => refuse(format!(
                    "the tree has no directory '{name}'; to remove everything from the host, push ':{cluster}'"
                )),
                Scope::Group => Ok(Judged::Unaffected),
            };
        };
        if let Some(before) = &renamed_from
            && self.host_tree(commit, before)?.is_some()
        {
            return refuse(format!(
                "the host is deployed from directory '{before}', not '{name}'; if '{name}' is its new name, remove \
                 '{before}' from the tree"
            ));
        }
        let is_forced = self.intent.scope == Scope::OneHost && self.intent.ancestry == Ancestry::Waived;
        let is_settled = tracked.is_some()
            && renamed_from.is_none()
            && !is_forced
            && !known.broken
            && self.intent.repair == Repair::Changed;
        let otherwise = if is_settled { IfNothingChanges::Unaffected } else { IfNothingChanges::Deployed };
        if is_settled && old == Some(new) {
            return Ok(Judged::Unaffected);
        }
        let update = self.update(tracked, commit).unwrap_or_else(|error| Err(Refusal::Other(chain(&error))));
        Ok(Judged::Different { renamed_from, tracked, expected, trees: (old, Some(new)), otherwise, update })
    }

    /// Whether `commit` may follow what runs.
    fn update(
        &mut self,
        tracked: Option<Tracked>,
        commit: CommitId,
    ) -> Result<Result<RefUpdate, Refusal>, RemoteError> {
        Ok(match tracked {
            None => Ok(RefUpdate::FastForward),
            Some(tracked) if self.is_known_forward(tracked, commit)? => Ok(RefUpdate::FastForward),
            Some(_) if self.may_go_aside() => Ok(RefUpdate::Forced),
            Some(Tracked { commit: local, real }) => {
                let missing = (real != local && !self.repo.has_commit(real)).then_some(real);
                Err(Refusal::NonFastForward { missing })
            }
        })
    }

    /// The host of a projection in the new commit's history, if that is another one. A projection that is recorded for two
    /// hosts is of one that was renamed.
    fn projected_for_another(&self, name: &HostName) -> Option<&HostName> {
        let (own, others): (Vec<&Pair>, Vec<&Pair>) = self.projected.iter().partition(|pair| pair.host == *name);
        let own: BTreeSet<CommitId> = own.into_iter().map(|pair| pair.projected).collect();
        others.into_iter().find(|pair| !own.contains(&pair.projected)).map(|pair| &pair.host)
    }

    fn may_go_aside(&self) -> bool {
        self.intent.ancestry == Ancestry::Waived || self.intent.lease.is_some()
    }

    /// Like [`Self::is_forward`]. If ancestry is not required, a shallow history is no error.
    fn is_known_forward(&mut self, tracked: Tracked, new: CommitId) -> Result<bool, RemoteError> {
        match self.is_forward(tracked, new) {
            Err(RemoteError::Ancestry(_)) if self.may_go_aside() => Ok(false),
            told => told,
        }
    }

    /// `--force-with-lease`: Git names the commit of the tracking ref, which may be a projection of the real one.
    fn named_lease(&self, tracked: Option<Tracked>) -> Option<Lease> {
        match (self.intent.lease, tracked) {
            (Some(Lease::At(id)), Some(tracked)) if id == tracked.commit => Some(Lease::At(tracked.real)),
            (lease, _) => lease,
        }
    }

    /// The host's directory in the commit that it runs, and what that is called if not as the host is now. A directory that
    /// the commit lacks was renamed if the host was deployed from another one.
    fn deployed_tree(
        &mut self,
        host: &HostRemote,
        tracked: Tracked,
    ) -> Result<(Option<TreeId>, Option<HostName>), RemoteError> {
        if let Some(tree) = self.host_tree(tracked.commit, &host.host)? {
            return Ok((Some(tree), None));
        }
        let deployed = HostFacts::load(self.repo, &host.tracking).and_then(|facts| facts.deployed);
        match deployed.filter(|deployed| deployed.commit == tracked.real && deployed.host != host.host) {
            Some(deployed) => Ok((self.host_tree(tracked.commit, &deployed.host)?, Some(deployed.host))),
            None => Ok((None, None)),
        }
    }

    fn host_tree(&mut self, commit: CommitId, host: &HostName) -> Result<Option<TreeId>, RemoteError> {
        if let Some(root) = self.roots.get(&commit) {
            return Ok(root.get(host).copied());
        }
        let root: BTreeMap<_, _> = self.repo.host_trees(commit)?.into_iter().collect();
        let found = root.get(host).copied();
        self.roots.insert(commit, root);
        Ok(found)
    }

    /// Whether `new` descends from the running commit, or from its local projection.
    fn is_forward(&mut self, tracked: Tracked, new: CommitId) -> Result<bool, RemoteError> {
        if let Some(known) = self.forward.get(&tracked.commit) {
            return Ok(*known);
        }
        let is_forward = self.repo.is_ancestor(tracked.commit, new)?
            || (tracked.real != tracked.commit
                && self.repo.has_commit(tracked.real)
                && self.repo.is_ancestor(tracked.real, new)?);
        self.forward.insert(tracked.commit, is_forward);
        Ok(is_forward)
    }
}

/// The plans for all of `work`, in its order.
fn draw(repo: &Repo, work: &[Trees], plain: PlainText) -> Vec<Drawn> {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let threads = cores.min(work.len() / WORTH_A_THREAD).max(1);
    let directory = repo.gix().objects.store_ref().path();
    // A handle can't be sent to another thread. Several threads may read the same objects, but that is cheaper than
    // sharing a cache. The repository's own handle would also cache objects that nobody reads again.
    let fresh = || (gix::odb::at(directory, gix::hash::Kind::Sha1), Apps::default());
    parallel::map(work.len(), threads, fresh, |(objects, apps), at| match objects {
        Ok(objects) => draw_one(objects, work[at], apps, plain),
        Err(error) => Err(error.to_string()),
    })
}

fn draw_one(objects: &dyn Objects, (old, new): Trees, apps: &mut Apps, plain: PlainText) -> Drawn {
    let mut load = |tree: Option<TreeId>| match tree {
        Some(tree) => HostTree::load_sharing(objects, tree, apps).map_err(|error| error.to_string()),
        None => Ok(HostTree::default()),
    };
    let (old, new) = (load(old)?, load(new)?);
    let wanted = |tree| Desired::of(tree).map_err(|error| error.to_string());
    let (had, wants) = (wanted(&old)?, wanted(&new)?);
    let plan = HostPlan::of_desired(&old, &new, &had, &wants);
    match contents::refusal(objects, &plan, &old, &new, plain) {
        Some(why) => Err(why),
        None => {
            let safeguards = Safeguards::of(&plan, &old, &new);
            Ok((Arc::new(plan), Arc::new(safeguards), new.ignored.into()))
        }
    }
}
