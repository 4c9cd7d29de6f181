import PlatterCore
import SystemPackage
import TestSupport
import Testing

/// A way in which qemu-img makes an image.
struct Creation: Sendable, CustomTestStringConvertible {
  var format: String
  /// Options as `-o` takes them.
  var options: [String] = []
  var hasBacking = false
  /// Some units are written compressed.
  var hasPacked = false
  /// Bytes of a cluster, for writes that must cover one.
  var clusterByteCount = 65536
  var secret: String?

  var testDescription: String {
    let extras = (hasBacking ? ["backing file"] : []) + (hasPacked ? ["packed clusters"] : [])
    return ([format] + options + extras).joined(separator: " ")
  }

  /// Bytes of the disk: odd in clusters, whole in sectors.
  static let diskByteCount = (9 << 20) - 1536

  /// Makes the image as `disk` in a folder and lets qemu-io write to it.
  func make(in folder: FilePath) throws -> FilePath {
    let image = folder.appending("disk")
    if hasBacking {
      try Tool.qemuImg.succeed("create", "-q", "-f", "qcow2", "base", "8M", in: folder)
      try write(to: "base", ["write -q -P 0x11 0 6M", "write -q -P 0x22 6M 1000k"], format: "qcow2", in: folder)
    }
    var words = ["create", "-q", "-f", format]
    if let secret { words += ["--object", "secret,id=s0,data=\(secret)"] }
    if !options.isEmpty { words += ["-o", options.joined(separator: ",")] }
    if hasBacking { words += ["-b", "base", "-F", "qcow2"] }
    try succeed(words + ["disk", String(Self.diskByteCount)], in: folder)
    try write(to: "disk", patterns, format: format, in: folder)
    return image
  }

  /// Whole and broken clusters, zeros that own space and zeros that do not, packed clusters, the disk's last bytes.
  private var patterns: [String] {
    var commands = [
      "write -q -P 0xa1 0 64k", "write -q -P 0xa2 196608 131072", "write -q -P 0xa3 1000448 5120",
      "write -q -P 0xa4 3145728 1048576", "write -q -z 3407872 131072", "discard -q 3670016 262144",
      "write -q -z -u 5242880 65536", "write -q -P 0xa5 \(Self.diskByteCount - 2560) 2560",
    ]
    if hasPacked {
      commands.append("write -q -c -P 0xb1 \(6 << 20) \(clusterByteCount)")
      if clusterByteCount < 1 << 20 {
        commands.append("write -q -c -P 0xb2 \((6 << 20) + clusterByteCount) \(clusterByteCount)")
      }
    }
    return commands
  }

  private func write(to name: String, _ commands: [String], format: String, in folder: FilePath) throws {
    var words = commands.flatMap { ["-c", $0] }
    if let secret {
      words += ["--object", "secret,id=s0,data=\(secret)", "--image-opts"]
      words.append("driver=\(format),\(secretOption)=s0,file.filename=\(name)")
    } else {
      words += ["-f", format, name]
    }
    let result = try run(Tool.qemuIO.path ?? "qemu-io", words, in: folder)
    guard result.succeeded, !result.outputText.contains("rror") else {
      throw RunError(description: "qemu-io: \(result.outputText)\(result.errorText)")
    }
  }

  /// Whether both programs map it alike. QEMU does not say where a VHDX has its data, and takes space that is only
  /// reserved in a data file for data, where we see that it was never written.
  var hasSameMap: Bool {
    let isReserved =
      options.contains("data_file_raw=on") || options.contains("preallocation=falloc")
      || options.contains("preallocation=metadata")
    return format != "vhdx" && !(isReserved && options.contains("data_file=disk.data"))
  }

  /// The driver option that takes the passphrase.
  var secretOption: String { format == "luks" ? "key-secret" : "encrypt.key-secret" }

  private func succeed(_ words: [String], in folder: FilePath) throws {
    var result = try run(Tool.qemuImg.path ?? "qemu-img", words, in: folder)
    // qemu-img measures the key derivation with a coarse clock, and now and then gives up.
    for _ in 0..<8 where result.errorText.contains("Unable to get accurate CPU usage") {
      result = try run(Tool.qemuImg.path ?? "qemu-img", words, in: folder)
    }
    guard result.succeeded else { throw RunError(description: "qemu-img \(words): \(result.errorText)") }
  }
}

extension Creation {
  /// qcow2 images in which every two values of two options meet at least once.
  static let qcow2: [Creation] = PairwiseChoice.all(
    [
      ["compat=0.10", "compat=1.1"],
      ["cluster_size=512", "cluster_size=4k", "cluster_size=64k", "cluster_size=2M"],
      ["refcount_bits=1", "refcount_bits=4", "refcount_bits=16", "refcount_bits=64"],
      ["extended_l2=off", "extended_l2=on"],
      ["compression_type=zlib", "compression_type=zstd"],
      ["lazy_refcounts=off", "lazy_refcounts=on"],
      ["preallocation=off", "preallocation=metadata", "preallocation=falloc"],
      ["data_file=-", "data_file=disk.data", "data_file_raw=on"],
      ["backing=no", "backing=yes"],
      ["packed=no", "packed=yes"],
    ], isPossible: isPossible
  ).map { qcow2($0) }

  /// What qemu-img 7.2 accepts together. A half-made choice is possible if it can be completed.
  private static func isPossible(_ chosen: Set<String>) -> Bool {
    let isOld = chosen.contains("compat=0.10")
    let needsNew = [
      "refcount_bits=1", "refcount_bits=4", "refcount_bits=64", "extended_l2=on", "compression_type=zstd",
      "lazy_refcounts=on", "data_file=disk.data", "data_file_raw=on",
    ]
    if isOld, needsNew.contains(where: chosen.contains) { return false }
    let hasSmallClusters = chosen.contains("cluster_size=512") || chosen.contains("cluster_size=4k")
    if chosen.contains("extended_l2=on"), hasSmallClusters { return false }
    let hasDataFile = chosen.contains("data_file=disk.data") || chosen.contains("data_file_raw=on")
    if hasDataFile, chosen.contains("packed=yes") { return false }
    if chosen.contains("data_file_raw=on"), chosen.contains("backing=yes") { return false }
    let isPreallocated = chosen.contains("preallocation=metadata") || chosen.contains("preallocation=falloc")
    if isPreallocated, chosen.contains("backing=yes") || chosen.contains("packed=yes") { return false }
    // A packed cluster shares its host cluster, whose count must then be more than one bit can hold.
    if chosen.contains("refcount_bits=1"), chosen.contains("packed=yes") { return false }
    return true
  }

  private static func qcow2(_ chosen: [String]) -> Creation {
    var creation = Creation(format: "qcow2")
    for choice in chosen {
      switch choice {
      case "backing=yes": creation.hasBacking = true
      case "packed=yes": creation.hasPacked = true
      case "backing=no", "packed=no", "data_file=-": break
      case "data_file_raw=on": creation.options += ["data_file=disk.data", "data_file_raw=on"]
      default: creation.options.append(choice)
      }
    }
    let sizes = ["cluster_size=512": 512, "cluster_size=4k": 4096, "cluster_size=2M": 2 << 20]
    for (option, byteCount) in sizes where chosen.contains(option) { creation.clusterByteCount = byteCount }
    return creation
  }

  /// The other formats, over the options that change what lies in the file.
  static let others: [Creation] = [
    Creation(format: "raw"),
    Creation(format: "raw", options: ["preallocation=falloc"]),
    Creation(format: "qed"),
    Creation(format: "qed", options: ["cluster_size=4k", "table_size=2"]),
    Creation(format: "qed", options: ["cluster_size=1M", "table_size=16"]),
    Creation(format: "vmdk"),
    Creation(format: "vmdk", options: ["subformat=monolithicFlat"]),
    Creation(format: "vmdk", options: ["subformat=twoGbMaxExtentSparse"]),
    Creation(format: "vmdk", options: ["subformat=twoGbMaxExtentFlat"]),
    Creation(format: "vmdk", options: ["zeroed_grain=on"]),
    Creation(format: "vmdk", options: ["compat6=on", "adapter_type=lsilogic"]),
    Creation(format: "vhdx", options: ["subformat=dynamic"]),
    Creation(format: "vhdx", options: ["subformat=dynamic", "block_size=1M"]),
    Creation(format: "vhdx", options: ["subformat=fixed"]),
    Creation(format: "vhdx", options: ["block_state_zero=off", "log_size=2M"]),
    Creation(format: "luks", options: ["key-secret=s0", "iter-time=10"], secret: "open sesame"),
    Creation(
      format: "luks",
      options: [
        "key-secret=s0", "iter-time=10", "cipher-alg=aes-128", "cipher-mode=cbc", "ivgen-alg=essiv",
        "ivgen-hash-alg=sha256",
      ], secret: "open sesame"),
    Creation(
      format: "qcow2", options: ["encrypt.format=luks", "encrypt.key-secret=s0", "encrypt.iter-time=10"],
      secret: "open sesame"),
  ]
}
