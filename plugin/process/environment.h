#pragma once

#include <string>

namespace moetap::plugin {

/// What the environment of the process asks for. Paths are absolute, since the host may change its working directory.
struct Environment {
  std::string directory;    // the working directory when the variables were read: relative paths start there
  std::string config_file;  // MOETAP_CONFIG: a configuration file; empty: none
  std::string output_dir;   // MOETAP_OUTPUT_DIR: overrides the file's output_dir; empty: not given

  bool asks_to_record() const { return !config_file.empty() || !output_dir.empty(); }
};

/// What the environment asked for when the library was loaded; if that was nothing, what it asks for now. Loading takes
/// the library out of LD_PRELOAD, so that programs that the host starts do not load it too.
Environment read_environment();

}  // namespace moetap::plugin
