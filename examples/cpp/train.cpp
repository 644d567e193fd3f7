// Trains a network that netc has compiled, writes its weights, evaluates it, and classifies some samples.
//
// Nothing here knows the network: names, types, shapes and roles of all tensors are those of manifest.json, which
// docs/artifact.md describes. The data are one safetensors file with the fields of both splits (`train.image`, ...).

#define ORT_API_MANUAL_INIT  // so that an engine older than the headers is found before anything is called
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using Shape = std::vector<std::int64_t>;
using Type = ONNXTensorElementDataType;
using Tensors = std::map<std::string, Ort::Value>;

static_assert(std::endian::native == std::endian::little, "safetensors files hold little-endian numbers");

constexpr auto usage =
    "usage: train ARTIFACT DATA [--steps N] [--threads N] [--out FILE]\n"
    "\n"
    "ARTIFACT   folder that netc compile or netc export --what train has written\n"
    "DATA       safetensors file of the samples, as examples/browser/prepare.py writes it\n"
    "--steps    updates to make: 50\n"
    "--threads  of ONNX Runtime: all cores\n"
    "--out      file for the trained weights: weights.safetensors\n";
constexpr std::int64_t shown = 5;  // samples to classify
constexpr int diverged = 4;        // the exit code of netc train

/// What the user can mend, said in one sentence.
struct Mistake : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Training that has no use any more.
struct Diverged : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct TypeInfo {
  Type type;
  std::string_view safetensors, manifest;  // what files of tensors and the manifest call it
  std::size_t bytes;
};

constexpr std::array types{
    TypeInfo{ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, "F32", "float32", 4},
    TypeInfo{ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE, "F64", "float64", 8},
    TypeInfo{ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, "I64", "int64", 8},
    TypeInfo{ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, "I32", "int32", 4},
    TypeInfo{ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32, "U32", "uint32", 4},
    TypeInfo{ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, "U8", "uint8", 1},
};

const TypeInfo& type_where(auto&& is, const std::string& name) {
  const auto* found = std::ranges::find_if(types, is);
  if (found == types.end()) throw Mistake("this program knows no numbers of the type " + name);
  return *found;
}

const TypeInfo& type_named(const std::string& name) {
  return type_where([&](const TypeInfo& info) { return info.safetensors == name || info.manifest == name; }, name);
}

/// Calls `function` with a value of the C++ type that `type` stands for.
template <typename Function>
void with_type(Type type, Function&& function) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT: return function(float{});
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE: return function(double{});
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64: return function(std::int64_t{});
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32: return function(std::int32_t{});
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32: return function(std::uint32_t{});
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8: return function(std::uint8_t{});
    default: throw std::logic_error("type " + std::to_string(type) + " is not in the table of types");
  }
}

std::size_t elements(const Shape& shape) {
  std::size_t count = 1;
  for (const auto size : shape) count *= static_cast<std::size_t>(size);
  return count;
}

Type type_of(const Ort::Value& value) { return value.GetTensorTypeAndShapeInfo().GetElementType(); }
Shape shape_of(const Ort::Value& value) { return value.GetTensorTypeAndShapeInfo().GetShape(); }
const TypeInfo& info_of(const Ort::Value& value) {
  const auto type = type_of(value);
  return type_where([&](const TypeInfo& info) { return info.type == type; }, "number " + std::to_string(type));
}
std::size_t bytes_of(const Ort::Value& value) { return elements(shape_of(value)) * info_of(value).bytes; }
const char* bytes_at(const Ort::Value& value) { return static_cast<const char*>(value.GetTensorRawData()); }

Ort::Value make_tensor(Type type, const Shape& shape) {
  Ort::AllocatorWithDefaultOptions allocator;
  return Ort::Value::CreateTensor(allocator, shape.data(), shape.size(), type);
}

Ort::Value make_tensor(Type type, const Shape& shape, const char* bytes) {
  auto value = make_tensor(type, shape);
  std::memcpy(value.GetTensorMutableRawData(), bytes, bytes_of(value));
  return value;
}

/// Returns the one number of a scalar.
double number(const Ort::Value& value) {
  double result = 0;
  with_type(type_of(value), [&](auto kind) { result = static_cast<double>(*value.GetTensorData<decltype(kind)>()); });
  return result;
}

void set_number(Ort::Value& value, double to) {
  const auto set = [&](auto kind) { *value.GetTensorMutableData<decltype(kind)>() = static_cast<decltype(kind)>(to); };
  with_type(type_of(value), set);
}

std::vector<char> read_file(const fs::path& path) {
  if (!fs::is_regular_file(path)) throw Mistake(path.string() + " does not exist or is no file");
  std::ifstream file(path, std::ios::binary);
  std::vector<char> content(fs::file_size(path));
  if (!file.read(content.data(), static_cast<std::streamsize>(content.size())))
    throw Mistake(path.string() + " cannot be read");
  return content;
}

struct TensorFile {
  Tensors tensors;
  Json metadata = Json::object();
};

TensorFile read_safetensors(const fs::path& path) {
  const auto content = read_file(path);
  const Mistake cut(path.string() + " is not a complete safetensors file");
  std::uint64_t length = 0;
  if (content.size() < sizeof length) throw cut;
  std::memcpy(&length, content.data(), sizeof length);
  if (length > content.size() - sizeof length) throw cut;
  const auto* start = content.data() + sizeof length;
  const auto* data = start + length;
  const auto size = content.size() - sizeof length - length;

  const auto header = Json::parse(start, data);
  TensorFile file;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      file.metadata = entry;
      continue;
    }
    const auto& type = type_named(entry.at("dtype").get<std::string>());
    const auto shape = entry.at("shape").get<Shape>();
    const auto [begin, end] = entry.at("data_offsets").get<std::pair<std::uint64_t, std::uint64_t>>();
    if (begin > end || end > size || end - begin != elements(shape) * type.bytes) throw cut;
    file.tensors.emplace(name, make_tensor(type.type, shape, data + begin));
  }
  return file;
}

void write_safetensors(const fs::path& path, const Tensors& tensors) {
  Json header;
  std::uint64_t offset = 0;
  for (const auto& [name, value] : tensors) {
    const auto end = offset + bytes_of(value);
    header[name] = {{"dtype", info_of(value).safetensors}, {"shape", shape_of(value)}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  auto text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = text.size();
  // Under another name until it is complete, so that the file is there as a whole or not at all.
  auto partial = path;
  partial += ".partial";
  std::ofstream file(partial, std::ios::binary);
  file.write(reinterpret_cast<const char*>(&length), sizeof length) << text;
  for (const auto& [name, value] : tensors)
    file.write(bytes_at(value), static_cast<std::streamsize>(bytes_of(value)));
  file.close();
  std::error_code failed, ignored;
  if (file) fs::rename(partial, path, failed);
  if (!file || failed) {
    fs::remove(partial, ignored);
    throw Mistake(path.string() + " cannot be written" + (failed ? ": " + failed.message() : ""));
  }
}

/// One ONNX file with the names and roles of its inputs and outputs.
struct Program {
  Json inputs, outputs;
  Ort::Session session;

  Program(const Ort::Env& env, const Ort::SessionOptions& options, const fs::path& folder, const Json& graph)
      : inputs(graph.at("inputs")),
        outputs(graph.at("outputs")),
        session(env, existing(folder / graph.at("file").get<std::string>()).c_str(), options) {}

  /// Returns all outputs by name; takes each input from whichever of `sources` has its name.
  Tensors run(std::initializer_list<Tensors*> sources) {
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    std::vector<const char*> input_names, output_names;
    std::vector<Ort::Value> values;
    for (const auto& input : inputs) {
      const auto& name = input.at("name").get_ref<const std::string&>();
      const auto source = std::ranges::find_if(sources, [&](const auto* s) { return s->contains(name); });
      if (source == sources.end()) throw Mistake("init.safetensors has no tensor " + name);
      // A view of the same memory: the engine asks for values one beside the other, and state stays where it is.
      auto& value = (*source)->at(name);
      const auto shape = shape_of(value);
      input_names.push_back(name.c_str());
      values.push_back(Ort::Value::CreateTensor(memory, value.GetTensorMutableRawData(), bytes_of(value), shape.data(),
                                                shape.size(), type_of(value)));
    }
    for (const auto& output : outputs) output_names.push_back(output.at("name").get_ref<const std::string&>().c_str());
    auto results = session.Run(Ort::RunOptions{nullptr}, input_names.data(), values.data(), values.size(),
                               output_names.data(), output_names.size());
    Tensors named;
    for (std::size_t i = 0; i < results.size(); ++i) named.emplace(output_names[i], std::move(results[i]));
    return named;
  }

  /// Returns `count` samples from `first` on, wrapping round, of each field that the program takes, in its own type.
  Tensors batch(const Tensors& data, const std::string& split, std::int64_t first, std::int64_t count) const {
    Tensors result;
    for (const auto& input : inputs) {
      if (input.at("role") != "batch") continue;
      const auto name = split + "." + input.at("field").get<std::string>();
      const auto field = data.find(name);
      if (field == data.end()) throw Mistake("the data have no field " + name);
      auto shape = shape_of(field->second);
      const auto total = shape.at(0);  // as samples_of has made sure
      shape[0] = count;
      const auto row = static_cast<std::int64_t>(elements(shape)) / count;  // numbers in a sample
      const auto& type = type_named(input.at("dtype").get<std::string>());
      auto value = make_tensor(type.type, shape);
      with_type(type_of(field->second), [&](auto from) {
        with_type(type.type, [&](auto to) {
          const auto* source = field->second.GetTensorData<decltype(from)>();
          auto* target = value.GetTensorMutableData<decltype(to)>();
          for (std::int64_t i = 0; i < count; ++i)
            target = std::transform(source + (first + i) % total * row, source + ((first + i) % total + 1) * row,
                                    target, [](auto x) { return static_cast<decltype(to)>(x); });
        });
      });
      result.emplace(input.at("name").get<std::string>(), std::move(value));
    }
    return result;
  }

 private:
  static fs::path existing(fs::path path) {
    if (!fs::is_regular_file(path)) throw Mistake(path.string() + " does not exist");
    return path;
  }
};

/// Returns the number of samples in a split; throws Mistake unless all its fields have equally many.
std::int64_t samples_of(const Tensors& data, const std::string& split) {
  std::optional<std::int64_t> total;
  for (const auto& [name, value] : data) {
    if (!name.starts_with(split + ".")) continue;
    const auto shape = shape_of(value);
    if (shape.empty() || shape[0] < 1) throw Mistake("the field " + name + " of the data has no samples");
    if (total.value_or(shape[0]) != shape[0])
      throw Mistake("fields of the split " + split + " differ in their number of samples: " + std::to_string(*total) +
                    ", but " + std::to_string(shape[0]) + " of " + name);
    total = shape[0];
  }
  if (!total) throw Mistake("the data have no split " + split);
  return *total;
}

/// Replaces tensors by the flat buffers that programs take them in, if there are any (`netc compile --target web`).
void pack(Tensors& state, const Json& manifest) {
  for (const auto& buffer : manifest.value("packed", Json::array())) {
    const auto& type = type_named(buffer.at("dtype").get<std::string>());
    auto flat = make_tensor(type.type, {buffer.at("size").get<std::int64_t>()});
    for (const auto& part : buffer.at("tensors")) {
      const auto tensor = state.extract(part.at("name").get<std::string>());
      if (!tensor) throw Mistake("init.safetensors has no tensor " + part.at("name").get<std::string>());
      auto* target = static_cast<char*>(flat.GetTensorMutableRawData());
      std::memcpy(target + part.at("offset").get<std::size_t>() * type.bytes, bytes_at(tensor.mapped()),
                  bytes_of(tensor.mapped()));
    }
    state.emplace(buffer.at("name").get<std::string>(), std::move(flat));
  }
}

/// Undoes `pack`.
void unpack(Tensors& state, const Json& manifest) {
  for (const auto& buffer : manifest.value("packed", Json::array())) {
    const auto flat = state.extract(buffer.at("name").get<std::string>());
    const auto& type = info_of(flat.mapped());
    for (const auto& part : buffer.at("tensors"))
      state.emplace(part.at("name").get<std::string>(),
                    make_tensor(type.type, part.at("shape").get<Shape>(),
                                bytes_at(flat.mapped()) + part.at("offset").get<std::size_t>() * type.bytes));
  }
}

/// Throws Mistake if training takes more of the host than to run `train.onnx` again and again.
void require_plain(const Json& manifest) {
  const auto refuse = [](std::string_view what) {
    throw Mistake("this example does not train networks with " + std::string(what));
  };
  if (manifest.contains("phases")) refuse("phases");
  if (manifest.contains("init_from")) refuse("init_from; netc export --what train loads the weights beforehand");
  if (manifest.at("graphs").contains("population")) refuse("population statistics");
  if (manifest.contains("package")) return;
  for (const auto& tensor : manifest.at("state"))
    if (tensor.at("role") == "data_mean" || tensor.at("role") == "data_std")
      refuse("statistics of the data; netc export --what train computes them beforehand");
}

struct Options {
  fs::path artifact, data, out = "weights.safetensors";
  int steps = 50, threads = 0;
};

void print(const std::string& title, const Json& outputs, auto&& value_of) {
  std::cout << title;
  for (const auto& output : outputs)
    if (output.at("role") == "metric")
      std::cout << "  " << output.at("name").get<std::string>() << " " << value_of(output);
  std::cout << std::endl;
}

void evaluate(Program& program, Tensors& state, const Tensors& data, std::int64_t total, std::int64_t batch_size) {
  std::map<std::string, std::pair<double, double>> sums;  // of each metric: of weight * value, and of weight
  for (std::int64_t first = 0; first < total; first += batch_size) {
    auto batch = program.batch(data, "test", first, std::min(batch_size, total - first));
    const auto results = program.run({&state, &batch});
    for (const auto& output : program.outputs) {
      if (output.at("role") != "metric") continue;
      const auto name = output.at("name").get<std::string>();
      const auto weight = number(results.at(output.at("weight").get<std::string>()));
      if (weight == 0) continue;  // no sample counts, so the value is none
      sums[name].first += weight * number(results.at(name));
      sums[name].second += weight;
    }
  }
  print("test:", program.outputs, [&](const Json& output) {
    const auto [sum, weight] = sums[output.at("name").get<std::string>()];
    return sum / weight;
  });
}

/// Classifies the first samples of the test split by the inference program, with batch norm folded away.
void classify(Program& fold, Program& infer, Tensors& state, const TensorFile& data, std::int64_t total) {
  const auto scores = std::ranges::find_if(infer.outputs, [](const Json& output) {
    return output.contains("label") && output.at("shape").size() == 2;
  });
  if (scores == infer.outputs.end()) return;  // not a network that classifies
  Tensors parameters;
  auto folded = fold.run({&state});
  for (const auto& output : fold.outputs)
    parameters.emplace(output.at("feeds"), std::move(folded.at(output.at("name").get<std::string>())));

  const auto count = std::min(shown, total);
  auto batch = infer.batch(data.tensors, "test", 0, count);
  const auto results = infer.run({&parameters, &batch});
  const auto& value = results.at(scores->at("name").get<std::string>());
  const auto classes = shape_of(value).at(1);
  const auto names = Json::parse(data.metadata.value("classes", "[]"));
  const auto name = [&](std::int64_t index) {
    const auto at = static_cast<std::size_t>(index);
    return at < names.size() ? names.at(at).get<std::string>() : std::to_string(index);
  };
  const auto found = data.tensors.find("test." + scores->at("label").get<std::string>());
  if (found == data.tensors.end()) return;
  const auto& labels = found->second;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto* row = value.GetTensorData<float>() + i * classes;
    const auto best = std::max_element(row, row + classes) - row;
    std::int64_t truth = 0;
    with_type(type_of(labels), [&](auto kind) {
      truth = static_cast<std::int64_t>(labels.GetTensorData<decltype(kind)>()[i]);
    });
    std::cout << "test:" << i << "  " << name(best) << "  "
              << (best == truth ? "(right)" : "(wrong, it is " + name(truth) + ")") << "\n";
  }
}

void train(const Options& options) {
  const auto folder = options.out.parent_path();
  if (!folder.empty() && !fs::is_directory(folder))
    throw Mistake(folder.string() + ", the folder of --out, does not exist");
  if (fs::is_directory(options.out)) throw Mistake("--out " + options.out.string() + " is a folder; name a file");
  const auto content = read_file(options.artifact / "manifest.json");
  const auto manifest = Json::parse(content.begin(), content.end());
  require_plain(manifest);
  const auto data = read_safetensors(options.data);
  samples_of(data.tensors, "train");
  const auto total = samples_of(data.tensors, "test");
  auto state = read_safetensors(options.artifact / "init.safetensors").tensors;

  const Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "netc");
  Ort::SessionOptions session;
  session.SetIntraOpNumThreads(options.threads);
  const auto load = [&](const char* key) {
    return Program(env, session, options.artifact, manifest.at("graphs").at(key));
  };
  auto program = load("train"), eval = load("eval"), fold = load("fold"), infer = load("infer");

  const auto made = static_cast<std::int64_t>(number(state.at("step")));  // more than 0 in a package of a checkpoint
  const auto end = made + options.steps;
  for (const auto& tensor : manifest.at("state"))
    if (tensor.at("role") == "max_steps") set_number(state.at(tensor.at("name")), static_cast<double>(end));
  pack(state, manifest);

  const auto batch_size = manifest.at("batch_size").get<std::int64_t>();
  const auto runs = manifest.value("iter_size", std::int64_t{1});  // for one update
  const auto mixed = manifest.at("spec").at("solver").at("precision") == "mixed";
  for (auto run = made * runs; run < end * runs; ++run) {
    auto batch = program.batch(data.tensors, "train", run * batch_size, batch_size);
    auto results = program.run({&state, &batch});
    // What the step has read dies as what it wrote takes its name: two sets of buffers, none copied.
    for (const auto& output : program.outputs)
      if (output.at("role") == "next")
        state.insert_or_assign(output.at("feeds"), std::move(results.at(output.at("name").get<std::string>())));
    const auto step = (run + 1) / runs;
    if (const auto loss = number(results.at("total")); !std::isfinite(loss) && !mixed)
      throw Diverged(std::string("training diverged: total is ") + (std::isnan(loss) ? "nan" : "infinite") +
                     " at step " + std::to_string(step));
    if ((run + 1) % runs == 0 && (step % 10 == 0 || step == end))
      print("step " + std::to_string(step) + "/" + std::to_string(end), program.outputs,
            [&](const Json& output) { return number(results.at(output.at("name").get<std::string>())); });
  }

  unpack(state, manifest);
  write_safetensors(options.out, state);
  std::cout << "wrote " << options.out.string() << "\n";

  pack(state, manifest);
  evaluate(eval, state, data.tensors, total, batch_size);
  classify(fold, infer, state, data, total);
}

int whole_number(const std::string& option, const std::string& text, int least, int most) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < least || value > most)
    throw Mistake(option + " should be a whole number from " + std::to_string(least) + " to " + std::to_string(most) +
                  ", not " + text);
  return value;
}

/// Returns what the command line says, or nothing if it asks for help; throws Mistake.
std::optional<Options> parse(const std::vector<std::string>& arguments) {
  Options options;
  std::vector<std::string> paths;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const auto& argument = arguments[i];
    if (argument == "--help" || argument == "-h") return std::nullopt;
    if (!argument.starts_with("--")) {
      paths.push_back(argument);
      continue;
    }
    if (argument != "--steps" && argument != "--threads" && argument != "--out")
      throw Mistake("there is no option " + argument + "\n" + usage);
    if (++i == arguments.size()) throw Mistake(argument + " needs a value\n" + usage);
    if (argument == "--steps") options.steps = whole_number(argument, arguments[i], 1, std::numeric_limits<int>::max());
    if (argument == "--threads") options.threads = whole_number(argument, arguments[i], 0, 256);
    if (argument == "--out") options.out = arguments[i];
  }
  if (paths.size() != 2) throw Mistake("an artifact and a file of data are needed\n" + std::string(usage));
  options.artifact = paths[0];
  options.data = paths[1];
  return options;
}

}  // namespace

int main(int count, char** arguments) {
  try {
    const auto* api = OrtGetApiBase()->GetApi(ORT_API_VERSION);
    if (api == nullptr)
      throw Mistake("ONNX Runtime " + std::string(OrtGetApiBase()->GetVersionString()) +
                    " is older than the headers of version 1." + std::to_string(ORT_API_VERSION) +
                    " that this program was built with; build it with those of the library");
    Ort::InitApi(api);
    const auto options = parse({arguments + 1, arguments + count});
    if (!options) {
      std::cout << usage;
      return 0;
    }
    train(*options);
    return 0;
  } catch (const Mistake& mistake) {
    std::cerr << mistake.what() << "\n";
    return 2;
  } catch (const Diverged& end) {
    std::cerr << end.what() << "\n";
    return diverged;
  } catch (const Json::exception& error) {
    std::cerr << "the artifact or the data are not what netc writes: " << error.what() << "\n";
    return 2;
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
