#include "cli/studies/result_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace moetap::cli {
namespace {

namespace fs = std::filesystem;
using analysis::studies::Column;
using analysis::studies::kNoInteger;
using analysis::studies::Matrix;
using analysis::studies::Table;

constexpr size_t kBlockBytes = size_t{1} << 20;

/// A new file, written in blocks.
class OutputFile {
 public:
  explicit OutputFile(fs::path path) : path_(std::move(path)), file_(std::fopen(path_.c_str(), "wb"), &std::fclose) {
    if (!file_) fail();
    std::setvbuf(file_.get(), nullptr, _IONBF, 0);
  }
  void write(std::string_view text) {
    block_ += text;
    if (block_.size() >= kBlockBytes) flush();
  }
  void close() {
    flush();
    if (std::fclose(file_.release()) != 0) fail();
  }

 private:
  void flush() {
    if (std::fwrite(block_.data(), 1, block_.size(), file_.get()) != block_.size()) fail();
    block_.clear();
  }
  [[noreturn]] void fail() const {
    throw std::runtime_error(
        fmt::format("cannot write {}: {}", path_.string(), std::generic_category().message(errno)));
  }

  fs::path path_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
  std::string block_;
};

std::string json_text(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string csv_text(const std::string& text) {
  if (text.find_first_of(",\"\n\r") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char character : text) {
    quoted += character;
    if (character == '"') quoted += '"';
  }
  return quoted + '"';
}

std::string csv_cell(int64_t value) {
  return value == kNoInteger ? "" : fmt::format("{}", value);
}
std::string csv_cell(double value) {
  return number_text(value);
}
std::string csv_cell(const std::string& value) {
  return csv_text(value);
}

std::string json_cell(int64_t value) {
  return value == kNoInteger ? "null" : fmt::format("{}", value);
}
std::string json_cell(double value) {
  const std::string text = number_text(value);
  return text.empty() ? "null" : text;
}
std::string json_cell(const std::string& value) {
  return json_text(value);
}

void write_header(OutputFile& file, const Table& table) {
  std::string line;
  for (const Column* column : table.columns()) line += (line.empty() ? "" : ",") + csv_text(column->name);
  file.write(line + "\n");
}

void write_rows(OutputFile& file, const Table& table, const std::function<void()>& check) {
  constexpr size_t kRowsBetweenChecks = 4096;
  std::string line;
  for (size_t row = 0; row < table.num_rows(); ++row) {
    if (row % kRowsBetweenChecks == 0) check();
    line.clear();
    bool first = true;
    for (const Column* column : table.columns()) {
      if (!std::exchange(first, false)) line += ',';
      std::visit([&](const auto& cells) { line += csv_cell(cells[row]); }, column->cells);
    }
    line += '\n';
    file.write(line);
  }
}

template <typename Sink>
void write_json_table(Sink& file, const Table& table) {
  file.write("{");
  bool first_column = true;
  for (const Column* column : table.columns()) {
    file.write(std::exchange(first_column, false) ? "" : ", ");
    file.write(json_text(column->name) + ": [");
    bool first = true;
    std::visit(
        [&](const auto& cells) {
          for (const auto& cell : cells) {
            if (!std::exchange(first, false)) file.write(", ");
            file.write(json_cell(cell));
          }
        },
        column->cells);
    file.write("]");
  }
  file.write("}");
}

void write_matrix(const Matrix& matrix, const fs::path& path) {
  std::string shape;
  for (const int64_t size : matrix.shape) shape += fmt::format("{},", size);
  std::string header = fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", shape);
  constexpr size_t kPreamble = 10, kAlignment = 64;
  header.append(kAlignment - (kPreamble + header.size() + 1) % kAlignment, ' ');
  header += '\n';
  OutputFile file(path);
  file.write(std::string("\x93NUMPY\x01\x00", 8) + static_cast<char>(header.size() & 0xff) +
             static_cast<char>(header.size() >> 8) + header);
  file.write({reinterpret_cast<const char*>(matrix.values.data()), matrix.values.size() * sizeof(float)});
  file.close();
}

std::string json_list(const std::vector<std::string>& texts) {
  std::string list = "[";
  for (const std::string& text : texts) list += (list.size() == 1 ? "" : ", ") + json_text(text);
  return list + "]";
}

/// Text in memory, written as a file is.
struct TextSink {
  std::string text;
  void write(std::string_view more) { text += more; }
};

template <typename Sink>
void write_json(const Analysis& analysis, Sink& file) {
  file.write(fmt::format("{{\n\"schema_version\": 1,\n\"moetap_version\": {},\n\"inputs\": {},\n\"options\": {},\n",
                         json_text(MOETAP_VERSION), analysis.inputs_json, analysis.options_json));
  file.write("\"components\": {");
  bool first_component = true;
  for (const std::string& component : analysis.components) {
    file.write(std::exchange(first_component, false) ? "\n" : ",\n");
    file.write(json_text(component) + ": {");
    bool first_study = true;
    for (const StudyResult& of : analysis.results) {
      if (of.component != component) continue;
      file.write(std::exchange(first_study, false) ? "\n" : ",\n");
      file.write(fmt::format("  {}: {{\"sentence\": {}, \"notices\": {}, \"tables\": {{", json_text(of.study),
                             json_text(of.result.sentence), json_list(of.result.notices)));
      bool first_table = true;
      for (const Table& table : of.result.tables) {
        file.write(std::exchange(first_table, false) ? "\n" : ",\n");
        file.write("    " + json_text(table.name()) + ": ");
        write_json_table(file, table);
      }
      file.write("}}");
    }
    file.write("}");
  }
  file.write("},\n\"not_run\": [");
  bool first = true;
  for (const StudyLeftOut& of : analysis.left_out) {
    file.write(std::exchange(first, false) ? "\n" : ",\n");
    file.write(fmt::format("  {{\"study\": {}, \"needs\": {}}}", json_text(of.study), json_text(of.needs)));
  }
  file.write(fmt::format("],\n\"notices\": {}\n}}\n", json_list(analysis.notices)));
}

}  // namespace

std::string component_folder(const std::string& component) {
  std::string name;
  for (size_t i = 0; i < component.size(); ++i) {
    const char character = component[i];
    const bool hides = i == 0 && character == '.';
    if (character == '/' || character == '%' || character == '\0' || hides) {
      name += fmt::format("%{:02X}", static_cast<unsigned char>(character));
    } else {
      name += character;
    }
  }
  return name.empty() ? "%" : name;
}

std::string number_text(double value) {
  if (!std::isfinite(value)) return "";
  return fmt::format("{}", value);
}

void write_analysis(const Analysis& analysis, const std::string& folder, const std::function<void()>& check) {
  std::map<fs::path, std::unique_ptr<OutputFile>> files;
  const auto folder_of = [&](const std::string& component) {
    const auto& itself = analysis.in_folder_itself;
    const bool is_itself = std::find(itself.begin(), itself.end(), component) != itself.end();
    return is_itself ? fs::path(folder) : fs::path(folder) / component_folder(component);
  };
  for (const StudyResult& of : analysis.results) {
    for (const Table& table : of.result.tables) {
      const bool shared = table.find("component") != nullptr;
      const fs::path into = shared ? fs::path(folder) : folder_of(of.component);
      fs::create_directories(into);
      std::unique_ptr<OutputFile>& file = files[into / (table.name() + ".csv")];
      if (!file) {
        file = std::make_unique<OutputFile>(into / (table.name() + ".csv"));
        write_header(*file, table);
      }
      write_rows(*file, table, check);
    }
    for (size_t i = 0; analysis.matrices && i < of.result.matrices.size(); ++i) {
      const fs::path into = folder_of(of.component);
      fs::create_directories(into);
      write_matrix(of.result.matrices[i], into / (of.result.matrices[i].name + ".npy"));
    }
  }
  for (auto& [path, file] : files) file->close();
  OutputFile json(fs::path(folder) / "analysis.json");
  write_json(analysis, json);
  json.close();
}

nlohmann::ordered_json analysis_json(const Analysis& analysis) {
  TextSink sink;
  write_json(analysis, sink);
  return nlohmann::ordered_json::parse(sink.text);
}

}  // namespace moetap::cli
