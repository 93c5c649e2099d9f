#pragma once

#include <string>
#include <vector>

namespace moetap::benchmarks {

/// True for `--smoke` (tiny sizes, to see that the program runs), false for no argument. For any other command line it
/// prints the usage on stderr and exits the process with status 2.
bool smoke_requested(int argc, char** argv);

/// One Markdown line: processor, cores, vector instructions, versions, threads, load of the machine.
std::string describe_environment();

/// A Markdown table. All columns but the first are right-aligned.
class MarkdownTable {
 public:
  explicit MarkdownTable(std::vector<std::string> header);
  void add(std::vector<std::string> cells);
  std::string text() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

/// First quartile, median and third quartile of a series.
struct Quartiles {
  double first = 0;
  double median = 0;
  double third = 0;
};

/// Throws std::invalid_argument if `values` is empty.
Quartiles quartiles(std::vector<double> values);

}  // namespace moetap::benchmarks
