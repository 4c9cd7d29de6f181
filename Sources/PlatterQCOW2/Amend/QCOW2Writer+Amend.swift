package import PlatterCore
import PlatterCrypto

extension QCOW2: AmendableFormat {
  package static var amendOptions: [CreationOption] {
    creationOptions.filter { names.contains($0.name) } + KeySlotChange.options(prefix: "encrypt.")
  }

  /// Options of `create` that an image can be given later. The backing file is among them only to be refused with advice.
  private static let names: Set<String> = [
    "backing_file", "backing_fmt", "compat", "data_file", "data_file_raw", "lazy_refcounts", "refcount_bits", "size",
  ]
}

extension QCOW2Writer: AmendableMap {
  package func amend(_ request: AmendRequest, _ barrier: Barrier) throws(ImageError) {
    try locked { core throws(ImageError) in try core.amend(request, barrier) }
  }
}

extension QCOW2Writer: RebaseableMap {
  package func setBacking(_ name: [UInt8]?, format: String?, _ barrier: Barrier) throws(ImageError) {
    try locked { core throws(ImageError) in try core.setBacking(name: name ?? [], formatName: format, barrier) }
  }
}
