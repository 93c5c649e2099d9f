#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "cli/exports/output_place.h"
#include "plugin/dump/component_reader.h"
#include "plugin/run/run_reader.h"

namespace moetap::cli {

/// The options of `moetap export`; a format reads those that are its own.
struct ExportOptions {
  std::string component;       // "": the only one
  bool lists = false;          // parquet
  bool logits = false;         // parquet
  std::string token_range;     // easysteer: "A:B"
  std::string phase;           // easysteer: "", prompt, generation
  bool normalize = false;      // easysteer
  bool split_samples = false;  // easysteer
  int64_t sample = -1;         // easysteer; -1: all
  int64_t top_k = 0;           // easysteer; 0: as the model chose
  std::string suffix;          // libmoe
};

/// What a format gets to write one export.
struct ExportJob {
  const std::vector<plugin::RunReader>& runs;  // one, but for formats that take several
  const ExportOptions& options;
  std::string output;                 // the temporary file or folder to write
  std::string scratch_folder;         // on the same disk
  std::function<void()> check;        // throws when the user interrupts
  std::vector<std::string>& notices;  // what the user should know, one line each
  std::vector<std::string>& results;  // lines for stdout

  const plugin::RunReader& run() const { return runs.front(); }
};

struct ExportFormat {
  const char* name;
  const char* doc;  // one line of --help
  OutputKind kind;
  bool token_level;  // the files say what each token did: mode 0600
  bool many_runs;
  void (*write)(const ExportJob&);
};

const std::vector<ExportFormat>& export_formats();

void export_npy(const ExportJob& job);
void export_r3(const ExportJob& job);
void export_eplb(const ExportJob& job);
void export_parquet(const ExportJob& job);
void export_flame(const ExportJob& job);
void export_libmoe(const ExportJob& job);
void export_easysteer(const ExportJob& job);
void export_training_log(const ExportJob& job);

/// The components to export: that of --component, else all that have routers. Throws CommandError if there is none.
std::vector<std::string> chosen_components(const ExportJob& job);
/// The same where the format has room for one.
std::string chosen_component(const ExportJob& job);

/// Opens a component's dump. Throws CommandError if the run has no dump or no tokens of the component; adds what is
/// damaged to the notices.
plugin::ComponentReader open_component(const ExportJob& job, const std::string& component);

/// The layers of the component that the dump holds, in order. Throws CommandError unless each has the column, naming
/// the --dump that gives it.
std::vector<plugin::ReadLayer> layers_with(const ExportJob& job, const plugin::ComponentReader& reader,
                                           const std::string& component, const char* column);

/// Ids outside [-1, number of ids) become -1; returns how many. They come from damage that no header shows.
int64_t drop_foreign_ids(const plugin::ReadLayer& layer, int32_t* ids, int64_t n);

/// Softmax of each row [n, width], in place. A row of NaN stays.
void softmax_rows(float* values, int64_t n, int64_t width);

}  // namespace moetap::cli
