// Errors and the reference policy are part of every call that users make: `import Platter` brings them.
@_exported public import PlatterCore
