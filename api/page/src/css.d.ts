/** The label on the tin: style sheets are imported for the bundle alone. */
declare module "*.css";
