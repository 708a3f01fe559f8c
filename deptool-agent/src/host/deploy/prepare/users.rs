//! Checks the users whose service managers the plan involves: what is deployed for them must run at boot and without a session.

use super::Deciding;
use crate::{
    host::{
        external::users,
        owners::{Database, resolve},
        state::error::HostError,
    },
    shared::{
        desired::USERS_QUADLETS,
        name::{Account, UnitName},
        plan::Enablement,
        text::printable,
    },
    system::{Manager, System},
};

impl Deciding<'_> {
    /// Include the units of the users' managers. The units of users without one are left alone.
    pub(super) fn users(&mut self, system: &mut dyn System) -> Result<(), HostError> {
        let sides = self.sides;
        let mut all = sides.plan.users();
        all.extend(self.staged.down.iter().filter_map(|down| down.unit.user()));
        self.absent = users::join(self.home, system, all.clone())?;
        let wanted = users::of(sides.wants);
        for user in all {
            let is_absent = self.absent.contains(&user);
            let problem = match wanted.contains(&user) {
                true => self.problem_of(&user, system.manager())?,
                false => None,
            };
            if let Some(problem) = problem {
                self.problems.push(problem);
                self.absent.insert(user);
            } else if is_absent && system.manager() == Manager::Running {
                let left = "what it has enabled is left so";
                self.notes.push(format!("the service manager of user '{user}' can't be reached: {left}"));
            }
        }
        Ok(())
    }

    /// Why what is deployed for the user would not run, or not after a reboot.
    fn problem_of(&self, user: &Account, manager: Manager) -> Result<Option<String>, HostError> {
        let Some(uid) = resolve(self.home, Database::Passwd, user)? else {
            // In a local root, users may be created at its first boot. Podman has to know the number, though.
            let place = format!("{USERS_QUADLETS}{user}/");
            let is_needed = self.sides.wants.external.keys().any(|path| path.as_str().starts_with(&place));
            let problem = format!("there is no user '{user}' on the host, who is to have units");
            return Ok((self.home.is_live() || is_needed).then_some(problem));
        };
        Ok(match manager {
            Manager::Running if !users::lingers(self.home, user) => Some(format!(
                "user '{user}' does not linger, so the user's units would run during logins only: \
                 'loginctl enable-linger {user}' on the host changes that"
            )),
            Manager::Running if self.absent.contains(user) => Some(format!(
                "the service manager of user '{user}' can't be reached: 'systemctl restart user@{uid}.service' on the \
                 host starts it"
            )),
            Manager::Offline if self.enables(user) => Some(format!(
                "units of user '{user}' can't be enabled here: only the user's own service manager can do that"
            )),
            Manager::Running | Manager::Offline | Manager::Absent => None,
        })
    }

    fn enables(&self, user: &Account) -> bool {
        let mut of_user = self.sides.plan.units.iter().filter(|change| change.unit.user().as_ref() == Some(user));
        of_user.any(|change| matches!(change.enablement, Enablement::Enable | Enablement::Renew))
    }

    /// Refuse a unit if its user's manager uses a file of the user's own. That is in the user's home, out of our hands.
    pub(super) fn check_is_ours(&mut self, unit: &UnitName, system: &mut dyn System) -> Result<(), HostError> {
        let ours = format!("/etc/systemd/user/{}", unit.name());
        let is_made = self.sides.wants.external.keys().any(|path| path.as_str() == ours);
        if unit.user().is_none() || !is_made {
            return Ok(());
        }
        let loaded = system.detail(unit)?.file;
        if let Some(other) = users::other_file(self.home, &loaded, &ours) {
            let other = printable(other.as_bytes());
            self.problems.push(format!("unit '{unit}' is overridden by '{other}' on the host"));
        }
        Ok(())
    }

    /// Whether the unit's manager can't be reached.
    pub(super) fn is_absent(&self, unit: &UnitName) -> bool {
        unit.user().is_some_and(|user| self.absent.contains(&user))
    }
}
