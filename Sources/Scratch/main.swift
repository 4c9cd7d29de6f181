import Glibc
import Platter
import PlatterCore
import SystemPackage

let arguments = Array(CommandLine.arguments.dropFirst())
func json(_ p: Property, _ indent: String) -> String {
  switch p {
  case .text(let t): return "\"\(t)\""
  case .integer(let i): return "\(i)"
  case .unsigned(let u): return "\(u)"
  case .flag(let f): return "\(f)"
  case .null: return "null"
  case .list(let l): return "[\n" + l.map { indent + "  " + json($0, indent + "  ") }.joined(separator: ",\n") + "\n" + indent + "]"
  case .object(let m): return "{\n" + m.map { indent + "  \"\($0.name)\": " + json($0.value, indent + "  ") }.joined(separator: ",\n") + "\n" + indent + "}"
  }
}
var options = OpenOptions(references: .any)
options.warn = { let l = Array("qemu-img: warning: \($0)\n".utf8); _ = write(2, l, l.count) }
var names: [String] = []
var i = 1
while i < arguments.count {
  switch arguments[i] {
  case "-f": options.format = arguments[i + 1]; i += 2
  case "-O": i += 2
  case let a where a.hasPrefix("-"): i += 1
  default: names.append(arguments[i]); i += 1
  }
}
do throws(ImageError) {
  let image = try DiskImage.open(names[0], options)
  switch arguments[0] {
  case "convert":
    try Convert(sources: [image], target: .newFile(FilePath(names[1]))).run()
  case "facts":
    let facts = image.layers[0].map.facts
    print(json(facts.specific ?? .null, ""))
    print(facts.references, facts.warnings, facts.isDirty, image.layers[0].map.allocationUnit ?? 0)
  case "check":
    guard let map = image.layers[0].map as? any CheckableMap else { print("not checkable"); exit(63) }
    let r = try map.check(workers: 2) { _ in true }
    print(r)
  default:
    print("{ \"virtual-size\": \(image.byteCount), \"format\": \"\(image.layers[0].map.formatName)\" }")
  }
} catch {
  let line = Array("qemu-img: \(error.description)\n".utf8)
  _ = write(2, line, line.count)
  exit(1)
}
