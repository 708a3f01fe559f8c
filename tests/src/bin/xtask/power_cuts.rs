//! `cargo xtask power-cuts`: a virtual machine that loses power at many moments of deployments.

use anyhow::{Result, bail, ensure};
use deptool_tests::lab::vm::{Kind, Vm};
use deptool_tests::power_cuts::{PowerCuts, Ran};
use deptool_tests::sandbox::Sandbox;

use crate::needs;

pub fn run(moments: u32) -> Result<()> {
    ensure!(moments > 0, "at least one moment");
    needs::to_emulate()?;
    let vm = Vm::start(Kind::Disk)?;
    let sandbox = Sandbox::for_vm(&vm);
    let mut cuts = PowerCuts::begin(&vm, &sandbox)?;
    let (mut old, mut new, mut violations) = (0, 0, 0);
    for moment in 0..moments {
        // Spread evenly, however many there are, by the golden ratio. Some are after the usual end: what was told must be
        // there.
        let part = 0.1 + (f64::from(moment) * 0.618_034).fract();
        match cuts.cut(part) {
            Ok(cut) => {
                println!("{}/{moments}: {cut}", moment + 1);
                *(if cut.ran == Ran::Old { &mut old } else { &mut new }) += 1;
            }
            Err(error) => {
                println!("{}/{moments}: violation: {error:#}", moment + 1);
                violations += 1;
                // What comes after it would be compared with something else.
                cuts = cuts.again()?;
            }
        }
    }
    println!("{moments} power cuts: {old} ran the old version, {new} the new one; {violations} violations");
    if violations > 0 {
        bail!("a promise is broken");
    }
    Ok(())
}
