#pragma once

#include <string>
#include <vector>

namespace moetap::plugin {

/// What was lost of a finished run before its files were written: ranks and rows that a merge left out, what a process
/// that died did not leave, forwards that were dropped or could not be written. One line each that names the run;
/// empty: nothing. Whoever shows the run's numbers shows these lines. Manifests that cannot be read say nothing here.
std::vector<std::string> run_losses(const std::string& run_dir);

}  // namespace moetap::plugin
