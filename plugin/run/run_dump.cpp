#include "plugin/run/run_dump.h"

#include <algorithm>
#include <vector>

#include "plugin/dump/dump_reader.h"

namespace moetap::plugin {

bool has_dump(const RunReader& run, const std::string& component) {
  return std::any_of(run.ranks().begin(), run.ranks().end(), [&](int64_t rank) {
    const std::vector<std::string> series = DumpSeriesReader::names_in(run.dump_folder(rank));
    return std::any_of(series.begin(), series.end(), [&](const std::string& name) {
      return component.empty() || DumpSeriesReader::may_be_of(name, component);
    });
  });
}

}  // namespace moetap::plugin
